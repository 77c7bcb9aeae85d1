"""Side-by-side runs and measurements; never timed tests."""
