"""Prefect lives here and nowhere else. Its settings are made before anything of it is imported."""

from flows.settings import apply

apply()
