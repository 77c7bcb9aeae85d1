"""The model as MLflow loads it: logged as this script and a model folder, so no pickle exists.

It needs assay installed where it runs: `mlflow models serve -m models:/NAME@champion --env-manager local`.
"""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mlflow.pyfunc
import pandas as pd
from mlflow.exceptions import INVALID_PARAMETER_VALUE, MlflowException
from mlflow.models import Model as Logged
from mlflow.models import set_model

from pipeline import recalibration
from pipeline.errors import DataError
from pipeline.model import Model


class Refused(MlflowException):
    """A request that cannot be scored. MLflow's server answers with status 400 and `message`, one sentence."""

    def __init__(self, said: str) -> None:
        super().__init__(said, error_code=INVALID_PARAMETER_VALUE)

    @property
    def message(self) -> str:
        """What was wrong."""
        return str(self.args[0])

    @message.setter
    def message(self, text: str) -> None:
        """MLflow would put the data of the request in front of the sentence."""


class Scorer(mlflow.pyfunc.PythonModel):
    """Samples in, one row each out: score, p_value, decision, by the thresholds that the version was last given."""

    def load_context(self, context: Any) -> None:
        """Raises RegistryError when the registry does not answer, ModelError when what it holds is damaged."""
        folder = Path(context.artifacts["model"])
        with TemporaryDirectory(prefix="assay-serve-") as work:
            self.model = Model.load(folder, recalibration.of_run(_run(folder), Path(work)))

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Images come as a column `path` or `image` (base64), tables as their columns; a mapping of columns will do.

        Raises Refused for anything else."""
        try:
            return self.model.predict(_frame(model_input))
        except DataError as error:
            raise Refused(" ".join(str(error).split())) from error


def _frame(given: Any) -> pd.DataFrame:
    """What MLflow's server makes of a request: a frame, or a mapping of columns where it came as `inputs`."""
    if isinstance(given, pd.DataFrame):
        return given
    if not isinstance(given, Mapping):
        raise DataError(f"samples must come as columns with names, got {type(given).__name__}")
    try:
        return pd.DataFrame(dict(given))
    except ValueError as error:
        raise DataError(f"samples must come as columns with one value per sample each: {error}") from error


def _run(folder: Path) -> str:
    """The run that logged the model with the artifact `folder`; "" where that is not known."""
    found = [place / "MLmodel" for place in folder.parents[:2] if (place / "MLmodel").is_file()]
    return (Logged.load(str(found[0])).run_id or "") if found else ""


set_model(Scorer())
