"""PyOD's detectors behind this project's Detector contract, with the settings of ours. Needs the extra `bench`."""

from collections.abc import Callable
from typing import Any

import numpy as np

from pipeline.parts.rows import learned
from pipeline.protocols import Batch, Samples, Scores
from pipeline.samples import normals


class Peer:
    """A PyOD detector that gets its rows as our encoder makes them."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def fit(self, train: Samples) -> "Peer":
        self._encoder, x = learned(normals(train))
        self._model.fit(x.astype(np.float64))
        return self

    def score(self, batch: Batch) -> Scores:
        found = self._model.decision_function(self._encoder.transform(batch.x).astype(np.float64))
        return Scores(np.nan_to_num(found, posinf=np.finfo(np.float32).max).astype(np.float32))


def pyod(name: str, own: Any) -> Peer:
    """PyOD's counterpart of our detector `own`, called `name`."""
    makers: dict[str, Callable[[], Any]] = {
        "isolation_forest": lambda: _of(
            "iforest", "IForest", n_estimators=own.trees, max_samples=own.rows, random_state=own.seed
        ),
        "knn": lambda: _of("knn", "KNN", n_neighbors=own.neighbours, method=own.distance),
        "lof": lambda: _of("lof", "LOF", n_neighbors=own.neighbours),
        "ecod": lambda: _of("ecod", "ECOD"),
        "copod": lambda: _of("copod", "COPOD"),
        "hbos": lambda: _of("hbos", "HBOS", n_bins=own.bins, alpha=own.floor),
        "pca": lambda: _of("pca", "PCA"),
        "one_class_svm": lambda: _of("ocsvm", "OCSVM", nu=own.nu),
        "mahalanobis": lambda: _of("mcd", "MCD", random_state=0),
    }
    if name not in makers:
        raise SystemExit(f"no peer for {name} here: {', '.join(makers)}")
    return Peer(makers[name]())


def _of(module: str, cls: str, **settings: Any) -> Any:
    from importlib import import_module

    return getattr(import_module(f"pyod.models.{module}"), cls)(**settings)
