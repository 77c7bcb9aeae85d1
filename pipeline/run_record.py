"""What one MLflow run holds, and the names by which the runs of candidates line up on MLflow's pages.

Its pages make a section of all metrics whose names begin alike up to a slash, and lay the same metric of several runs
over one another. A figure of a defect, a group or a severity is `defect/hole.auroc` there, `defect.hole.auroc` in
metrics.json and wherever else it is asked for. Curves are metrics whose steps are their x.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline import curves

CURVE, HISTORY = "curve/", "history/"
NOTE = "mlflow.note.content"  # the tag that MLflow's pages show as description, in Markdown
KIND = {"mlflow.experimentKind": "custom_model_development"}  # so that they do not take it for a language model's
ABOUT = (
    "One run per candidate of this line, one version of its registered model each; the alias `champion` scores.\n\n"
    "Select runs and *Compare* them: metrics have the same names in all. "
    "`curve/roc`: detection rate by the step, a percentage of false alarms. "
    "`curve/pr`: precision by the step, a percentage of recall. "
    "`curve/pro`: overlap of regions by the step, thousandths of false alarms among pixels. "
    "`history/...`: what training said, by its step. "
    "`overlays/...`: the worst errors; a click shows them in full size.\n\n"
    "Filters: `tags.kind`, `tags.detector`, `tags.candidate`, `tags.line`, `tags.rule`, `tags.augment`, "
    "`tags.data_hash`, `tags.test_hash`, `tags.verdict`: `tags.verdict = 'promoted' and metrics.auroc > 0.9`."
)


@dataclass(frozen=True)
class Record:
    """What one run holds: flat params, metrics (also per step), tags, a folder of artifacts, the model's folder."""

    title: str
    params: dict[str, Any]
    metrics: dict[str, float]
    steps: list[dict[str, float]]
    tags: dict[str, str]
    artifacts: Path
    model: Path  # a folder named `model`
    script: Path  # the model from code
    requirements: list[str] = field(default_factory=list)
    curves: Mapping[str, Mapping[int, float]] = field(default_factory=dict)  # name: {step: value}
    pictures: Mapping[str, Sequence[Path]] = field(default_factory=dict)  # PNG files by name
    about: str = ""  # Markdown

    def points(self) -> Iterator[tuple[str, float, int]]:
        """Every metric by its name on MLflow's pages, with its value and step."""
        yield from ((sectioned(key), value, 0) for key, value in self.metrics.items())
        for step, values in enumerate(self.steps):
            yield from ((key, value, step) for key, value in values.items())
        for name, curve in self.curves.items():
            yield from ((f"{CURVE}{name}", value, step) for step, value in curve.items())


def sectioned(key: str) -> str:
    """The name of a metric on MLflow's pages."""
    return key if "/" in key.partition(".")[0] else key.replace(".", "/", 1)


def plain(key: str) -> str:
    """The name of a metric in metrics.json, from the one that `sectioned` gave."""
    return key if key.startswith((CURVE, HISTORY)) else key.replace("/", ".", 1)


def shown_curves(report: Path) -> dict[str, dict[int, float]]:
    """The curves of a candidate's report, as values by step."""
    return {
        name: dict(zip(rows["step"].tolist(), rows["y"].tolist(), strict=True))
        for name, rows in curves.read(report).items()
    }


def shown_pictures(report: Path) -> dict[str, list[Path]]:
    """The overlays of each kind of error, the worst first, by a name so short that MLflow's pages show it whole."""
    index = report / "overlays/index.csv"
    found: dict[str, list[Path]] = {}
    for path in pd.read_csv(index)["path"] if index.is_file() else ():
        found.setdefault(f"overlays/{path.partition('_')[0]}", []).append(index.parent / path)
    return found


def sheet(files: Sequence[Path]) -> Any:
    """The first pictures, one below the other, as a PIL image that is about square: MLflow's pages show squares."""
    from PIL import Image

    pictures: list[Any] = []
    for file in files:
        with Image.open(file) as opened:
            pictures.append(opened.convert("RGB"))
        width, height = max(one.width for one in pictures), sum(one.height for one in pictures)
        if height >= 0.9 * width:
            break
    whole = Image.new("RGB", (width, height), "white")
    top = 0
    for one in pictures:
        whole.paste(one, (0, top))
        top += one.height
    return whole
