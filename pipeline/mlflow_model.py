"""The model as MLflow loads it: logged as this script and a model folder, so no pickle exists.

It needs assay installed where it runs: `mlflow models serve -m models:/NAME@champion --env-manager local`.
"""

from pathlib import Path
from typing import Any

import mlflow.pyfunc
import pandas as pd
from mlflow.models import set_model

from pipeline.model import Model


class Scorer(mlflow.pyfunc.PythonModel):
    """Samples in, one row each out: score, p_value, decision."""

    def load_context(self, context: Any) -> None:
        self.model = Model.load(Path(context.artifacts["model"]))

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Images come as a column `path`, tables as their feature columns. Raises DataError for anything else."""
        return self.model.predict(model_input)


set_model(Scorer())
