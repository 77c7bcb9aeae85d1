"""assay: a production line for anomaly detectors. Start reading at `pipeline/protocols.py`."""
