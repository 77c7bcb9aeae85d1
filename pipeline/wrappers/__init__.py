"""What may be put around a detector: keys of a candidate in params, the innermost first. Each is a detector itself."""

TABLE = {"bank": "WithBank", "tiles": "Tiles", "turns": "Turns", "per_category": "PerCategory"}
