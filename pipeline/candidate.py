"""What a line's stages left of one candidate, as figures and hashes; and where it came from."""

import json
import subprocess
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256 as digest
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.errors import LineError
from pipeline.files import sha256
from pipeline.model import Model
from pipeline.params import Params
from pipeline.samples import part
from pipeline.stages import CANDIDATES, DATASET, MODELS, SPLIT

ROOT = Path(__file__).resolve().parents[1]
SECTIONS = ("dataset", "split", "augment", "calibrate")


@dataclass(frozen=True)
class Candidate:
    """What the stages left of one candidate in a line's folder."""

    params: Params
    line: Path
    name: str

    @property
    def model(self) -> Path:
        return self.line / MODELS / self.name

    @property
    def calibration(self) -> Path:
        return self.line / MODELS / f"{self.name}.calibration.json"

    @property
    def report(self) -> Path:
        return self.line / CANDIDATES / self.name

    def must_be_complete(self) -> None:
        for path in (self.model, self.calibration, self.report / "metrics.json"):
            if not path.exists():
                raise LineError(f"{path} is needed to publish {self.name} and is missing; run dvc repro first")

    @cached_property
    def sections(self) -> dict[str, Any]:
        """The params that made this candidate."""
        own = {name: self.params.sections[name] for name in SECTIONS if name in self.params.sections}
        return {**own, "detector": self.params.sections["candidates"][self.name]}

    @cached_property
    def content_hash(self) -> str:
        parts = [sha256(self.model), sha256(self.calibration), sha256(self.report / "metrics.json")]
        return digest("\n".join([*parts, json.dumps(self.sections, sort_keys=True, default=str)]).encode()).hexdigest()

    @cached_property
    def metrics(self) -> dict[str, float]:
        values = flat(json.loads((self.report / "metrics.json").read_text(encoding="utf-8")))
        return {key: float(value) for key, value in values.items() if isinstance(value, int | float)}

    @cached_property
    def loaded(self) -> Model:
        return Model.load(self.model, self.calibration)

    @cached_property
    def filters(self) -> dict[str, str]:
        """How the candidate came about, by the names of the tags that MLflow's pages can be filtered by."""
        calibration = self.loaded.calibration
        return {
            "candidate": self.name,
            "detector": self.loaded.stored.key,
            "kind": self.params.dataset.kind,
            "augment": str(self.params.sections["augment"]["kind"]),
            "rule": str(calibration.plan.section()["rule"]),
            "promise": calibration.says(),
            "line": line_name(self.line),
            "data_hash": self.loaded.stored.data,
        }

    @property
    def about(self) -> str:
        """The candidate in a sentence, as Markdown."""
        return f"Candidate `{self.name}` (`{self.loaded.stored.key}`): {self.loaded.calibration.says()}."

    def history(self) -> list[dict[str, float]]:
        """history.csv as metrics per epoch or step."""
        path = self.model / "history.csv"
        rows = pd.read_csv(path).to_dict("records") if path.exists() and path.stat().st_size else []
        return [{f"history/{k}": float(v) for k, v in row.items() if k != "step"} for row in rows]


def hash_of_test(line: Path) -> str:
    """What the test part holds, as a hash: metrics with the same one can be compared."""
    rows = part(line / DATASET, line / SPLIT, "test").drop(columns="folder").sort_values("id")
    return digest(rows.to_csv(index=False, lineterminator="\n").encode()).hexdigest()


def flat(values: dict[str, Any], above: str = "") -> dict[str, Any]:
    """Nested keys joined by points; lists as JSON."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            found |= flat(value, f"{above}{key}.")
        else:
            found[f"{above}{key}"] = json.dumps(value, default=str) if isinstance(value, list) else value
    return found


def line_name(line: Path) -> str:
    """A line's folder as seen from the checkout's top; `.` is the top itself."""
    place = line.resolve()
    return place.relative_to(ROOT).as_posix() if place.is_relative_to(ROOT) else place.name


def git_state(line: Path) -> tuple[str, bytes]:
    """The commit of the checkout and what is changed against it (names of new files included); `none` without git."""
    try:
        said = [
            subprocess.run(["git", *words], cwd=line, capture_output=True, check=True).stdout
            for words in (("rev-parse", "HEAD"), ("status", "--porcelain"), ("diff", "HEAD"))
        ]
    except (OSError, subprocess.CalledProcessError):
        return "none", b""
    commit, status, diff = said
    return commit.decode().strip(), status + b"\n" + diff if status else b""
