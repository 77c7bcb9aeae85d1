"""The model that scored a batch: its thresholds, and heat maps, for which it is loaded in the background."""

import threading
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline import downloaded, threshold
from pipeline.errors import AssayError
from pipeline.model import CALIBRATION, Model, groups
from pipeline.protocols import Modality

ASLEEP, LOADING, READY, FAILED = "asleep", "loading", "ready", "failed"


class Scorer:
    """The model behind a batch's report; `state` is one of the above, `why` says what is wrong where it failed."""

    def __init__(self, line: Path, report: dict[str, Any], modality: Modality) -> None:
        self.state, self.why = ASLEEP, ""
        self._line, self._report, self._modality = line, report, modality
        self._lock, self._at_work = threading.Lock(), threading.Lock()
        self._model: Model | None = None
        self._calibration: threshold.Calibration | None = None
        self._looked = False

    def wake(self) -> None:
        """Start to load the model, unless that was done."""
        with self._lock:
            if self.state == ASLEEP:
                self.state = LOADING
                threading.Thread(target=self._load, name="model", daemon=True).start()

    def limits(self, rows: pd.DataFrame | None) -> threshold.Thresholds | None:
        """The thresholds `alarm` and `review` that one sample was judged by; None where they are not on this machine.

        `rows` is its manifest row, for thresholds that go by group."""
        with self._lock:
            if not self._looked:
                self._looked = True
                found = (downloaded.judged(copy / CALIBRATION, self._report) for copy in self._copies())
                self._calibration = next(filter(None, found), None)
        found = self._calibration
        if found is None:
            return None
        of = groups(self._modality.samples(rows), found) if rows is not None else None
        return found.own.get(of[0], found.thresholds) if of else found.thresholds

    def local(self, rows: pd.DataFrame) -> np.ndarray | None:
        """The heat of one sample, as `Look` has it; None where the detector tells no places, which `why`
        says from then on.

        Raises DataError for a sample that is gone."""
        assert self._model is not None
        stored = self._model.stored
        with self._at_work:
            (batch,) = stored.modality.samples(rows).batches(1)
            found = stored.modality.look(rows, stored.detector.score(batch))[0].heat
        if found is None:
            self.state, self.why = FAILED, "this detector does not tell which places are odd"
        return found

    def _copies(self) -> list[Path]:
        return downloaded.copies(self._line, self._report)

    def _load(self) -> None:
        try:
            folder = next(iter(self._copies()), None) or self._downloaded()
            self._model = Model.load(folder / "model", folder / CALIBRATION)
            self.state = READY
        except AssayError as error:
            self.state, self.why = FAILED, str(error)
        except Exception as error:  # a page without heat maps is better than none
            traceback.print_exc()
            self.state, self.why = FAILED, f"{type(error).__name__}: {error}"

    def _downloaded(self) -> Path:
        from pipeline import batch  # brings MLflow

        return batch.model_of(self._line, self._report["name"], self._report["version"])
