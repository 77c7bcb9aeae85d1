"""Make the two databases of this checkout, so that the first run need not: the end of the installation.

python -m flows.prepare
"""

import os
import subprocess
import sys

from flows.settings import ROOT
from pipeline.ending import LOG, one_sentence
from pipeline.errors import LineError


def main() -> None:
    """Prefect's and MLflow's SQLite files, side by side; a server that the environment names has its own.

    Raises LineError when Prefect cannot make its database."""
    prefect = None
    if not {"PREFECT_API_URL", "PREFECT_API_DATABASE_CONNECTION_URL"} & set(os.environ):
        prefect = subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "database", "upgrade", "-y"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    if "MLFLOW_TRACKING_URI" not in os.environ:
        from pipeline import tracking

        tracking.initialise()
    if prefect:
        said, _ = prefect.communicate()
        if prefect.returncode:
            raise LineError(f"Prefect could not make its database: {said.strip().splitlines()[-1]}")


if __name__ == "__main__":
    with one_sentence(ROOT / LOG):
        main()
