"""params.yaml -> checked dataclasses; nowhere else.

Every section is checked against the dataclass that it configures: an unknown key, a wrong type or a
value out of range ends with one sentence. A section is checked when it is first used, so a stage
imports only what it runs; `Params.check` looks at all of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from annotated_types import Ge, Gt, Lt, MinLen

from pipeline import augmenters, detectors, modalities, sinks, wrappers
from pipeline.errors import ParamsError
from pipeline.operation import Monitor, Promote, Schedule, Score
from pipeline.plan import Plan
from pipeline.protocols import Augmenter, Detector, Modality
from pipeline.sections import build
from pipeline.sinks import Sink
from pipeline.tables import find

T = TypeVar("T")
READ = {  # sections and the property that reads each
    "dataset": "dataset",
    "split": "split",
    "augment": "augmenter",
    "calibrate": "calibrate",
    "promote": "promote",
    "score": "score",
    "monitor": "monitor",
    "schedule": "schedule",
}
Share = Annotated[float, Ge(0), Lt(1)]


@dataclass(frozen=True)
class Dataset:
    """Where the raw data come from. Further keys of this section are options of the kind of data."""

    source: Annotated[str, MinLen(1)]
    """A demo, a path, an archive, an fsspec URL or a SQL query."""
    kind: str
    """The kind of data, a file of pipeline/modalities/."""
    watch: Annotated[str, MinLen(1)] = "data/raw"
    """The local file or folder whose change makes `ingest` run again."""


@dataclass(frozen=True)
class Anomalies:
    """Shares of the labelled anomalies that go to training and calibration; the rest is for testing."""

    train: Share = 0.0
    """Share of the labelled anomalies that detectors may learn from."""
    calibrate: Share = 0.0
    """Share of the labelled anomalies that rules may set thresholds by."""


@dataclass(frozen=True)
class Split:
    """Shares of the normals for calibration and test; the rest is for training.

    A split column of the data is respected: then calibration normals come out of its training part, if it has none,
    and the shares of the anomalies out of its test."""

    calibrate: Annotated[float, Gt(0), Lt(1)] = 0.2
    """Share of the normals that set the thresholds; nobody trains or tests on them."""
    test: Share = 0.2
    """Share of the normals that candidates are compared on."""
    anomalies: Anomalies = field(default_factory=Anomalies)
    """Shares of the labelled anomalies; the rest is for the test."""
    groups: Literal["whole", "normals"] = "whole"
    """`whole` lets no group cross parts; with `normals` a group's anomalies may be tested on where its normals were
    trained on, for data in which nearly every item has a defect somewhere."""
    order: Literal["random", "time"] = "random"
    """`time` gives the oldest samples to training and the newest to the test."""
    seed: int = 0
    """Of the draw."""


def wrap(detector: Detector, around: Mapping[str, Any], where: str, source: str = "params.yaml") -> Detector:
    """`detector` with the wrappers that `around` names (key to options; `true` for none, `false` for not at all)."""
    for key in wrappers.TABLE:
        options = around.get(key, False)
        if options is not False:
            cls = find(wrappers, key, where)
            detector = build(cls, {} if options is True else options, f"{where}.{key}", source).around(detector)
    return detector


@dataclass(frozen=True)
class Params:
    """The checked sections of one params.yaml."""

    sections: Mapping[str, Any]
    path: Path

    def _section(self, name: str) -> Any:
        if name not in self.sections:
            raise ParamsError(f"{name} is required and missing ({self.path.name})")
        return self.sections[name]

    def _optional(self, cls: type[T], name: str) -> T:
        return build(cls, self.sections.get(name, {}), name)

    @cached_property
    def dataset(self) -> Dataset:
        section = self._section("dataset")
        own = {f.name for f in fields(Dataset)}
        known = {k: v for k, v in section.items() if k in own} if isinstance(section, Mapping) else section
        return build(Dataset, known, "dataset")

    @cached_property
    def modality(self) -> Modality:
        cls = find(modalities, self.dataset.kind, "dataset.kind")
        own = {f.name for f in fields(Dataset)}
        return build(cls, {k: v for k, v in self._section("dataset").items() if k not in own}, "dataset")

    @cached_property
    def split(self) -> Split:
        split = self._optional(Split, "split")
        if split.calibrate + split.test >= 1:
            raise ParamsError(
                f"split.calibrate + split.test must leave samples to train on, got {split.calibrate} + {split.test}"
                " (params.yaml)"
            )
        if split.anomalies.train + split.anomalies.calibrate > 1:
            raise ParamsError(
                "split.anomalies.train + split.anomalies.calibrate must be at most 1, got "
                f"{split.anomalies.train} + {split.anomalies.calibrate} (params.yaml)"
            )
        return split

    @cached_property
    def augmenter(self) -> Augmenter:
        section = self._section("augment")
        return _named(augmenters, section, "kind", "augment")

    @cached_property
    def candidates(self) -> list[str]:
        section = self._section("candidates")
        if not isinstance(section, Mapping) or not section:
            raise ParamsError(f"candidates must hold at least one named candidate, got {section!r} (params.yaml)")
        return [str(name) for name in section]

    def detector(self, candidate: str) -> Detector:
        """The unfitted detector of one candidate."""
        if candidate not in self.candidates:
            raise ParamsError(f"candidate must be one of {', '.join(self.candidates)}, got {candidate!r}")
        section, where = self.sections["candidates"][candidate], f"candidates.{candidate}"
        around = {}
        if isinstance(section, Mapping):
            around = {key: value for key, value in section.items() if key in wrappers.TABLE}
            section = {key: value for key, value in section.items() if key not in wrappers.TABLE}
            _suitable(around, str(section.get("detector")), where)
        return wrap(_named(detectors, section, "detector", where), around, where)

    def detector_key(self, candidate: str) -> str:
        """The table key of one candidate's detector, such as `image/patchcore`."""
        return str(self.sections["candidates"][candidate]["detector"])

    @cached_property
    def calibrate(self) -> Plan:
        return Plan.read(self.sections.get("calibrate", {}))

    @cached_property
    def promote(self) -> Promote:
        return build(Promote, self._section("promote"), "promote")

    @cached_property
    def score(self) -> Score:
        return build(Score, self._section("score"), "score")

    @cached_property
    def sinks(self) -> list[Sink]:
        """Where scores go besides the line's folder, in the order of `score.sinks`."""
        listed = enumerate(self.score.sinks)
        return [_named(sinks, section, "kind", f"score.sinks.{number}") for number, section in listed]

    @cached_property
    def monitor(self) -> Monitor:
        return self._optional(Monitor, "monitor")

    @cached_property
    def schedule(self) -> Schedule:
        return self._optional(Schedule, "schedule")

    def check(self) -> None:
        """Check every section at once. Raises ParamsError for the first that does not fit."""
        known = ("root", *READ, "candidates")
        for name in self.sections:
            if name not in known:
                near = get_close_matches(name, known, n=1)
                hint = f", did you mean {near[0]}?" if near else ""
                raise ParamsError(
                    f"{name} is not a known section ({self.path.name}){hint}; allowed are {', '.join(known)}"
                )
        for name in (*READ.values(), "modality", "sinks"):
            getattr(self, name)
        for candidate in self.candidates:
            self.detector(candidate)


def _suitable(around: Mapping[str, Any], detector: str, where: str) -> None:
    """Raise ParamsError for a wrapper that cannot be put around detectors of this kind."""
    for key, options in around.items():
        kind = find(wrappers, key, where).kind
        if options is not False and kind not in (None, detector.split("/")[0]):
            raise ParamsError(f"{where}.{key} is for {kind}/ detectors only, got {detector} (params.yaml)")


def _named(table: Any, section: Any, name: str, where: str) -> Any:
    if not isinstance(section, Mapping) or name not in section:
        raise ParamsError(f"{where}.{name} is required and missing (params.yaml)")
    cls = find(table, section[name], f"{where}.{name}")
    return build(cls, {k: v for k, v in section.items() if k != name}, where)


def read(path: Path = Path("params.yaml")) -> Params:
    """Read a params file; its sections are checked when they are used.

    Raises ParamsError when it is missing or is not YAML."""
    try:
        sections = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ParamsError(f"{path} does not exist; a line's folder must hold one") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path} must be YAML: {' '.join(str(error).split())}") from error
    if not isinstance(sections, Mapping):
        raise ParamsError(f"{path} must hold sections, got {sections!r}")
    return Params(sections, path)
