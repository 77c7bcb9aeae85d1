"""Where a model and a batch came from: data, split, params, code, version, libraries."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from pipeline.candidate import Candidate, flat
from pipeline.files import sha256
from pipeline.reports.document import NONE, Block, Facts, Table, Text, short
from pipeline.stages import DATASET, SPLIT
from pipeline.store import CARD

PARAMS = 80  # params that are listed
LABELS = {0: "normal", 1: "anomalous", -1: "of unknown label"}
SPELLED = {"content_hash": "content hash", "test_hash": "test part hash"}


def of_candidate(candidate: Candidate, version: int | None, run_id: str, tags: dict[str, str]) -> list[Block]:
    """Of what the stages left of a candidate; `tags` are those of its version, empty before it has one."""
    line, name = candidate.line, candidate.params.promote.name
    card = _card(candidate.model)
    commit = tags.get("git_commit", "")
    dirty = ", with changes (git.diff in the run)" if tags.get("git_dirty") == "true" else ""
    model = [
        ("registered as", f"{name} version {version}" if version else "not registered yet"),
        ("run in MLflow", run_id or NONE),
        ("git commit", f"{commit}{dirty}" if commit else NONE),
        ("detector", card.get("detector", NONE)),
        *((told, tags[key]) for key, told in SPELLED.items() if key in tags),
        ("calibration hash", sha256(candidate.calibration)),
    ]
    data = [
        ("source", str(candidate.params.dataset.source)),
        *((f"raw data {path}", digest) for path, digest in _raw(line)),
        ("data hash (manifest)", card.get("data", NONE)),
        *_parts(line),
    ]
    params = [[key, short(str(value))] for key, value in flat(candidate.sections).items()]
    note = f"and {len(params) - PARAMS} more, in params.yaml" if len(params) > PARAMS else ""
    return [
        Facts(model, "Model"),
        Facts(data, "Data"),
        *libraries(card),
        Table(["key", "value"], params[:PARAMS], "Params", note=note),
    ]


def of_batch(report: dict[str, Any], model: Path | None, calibration: str) -> list[Block]:
    """Of a scored batch: `model` is the folder of the model that scored it, None where it is no longer here."""
    card = _card(model) if model else {}
    batch = [
        ("batch", report["batch"]),
        ("source", str(report.get("source", NONE))),
        ("scored", str(report.get("started", NONE))),
        ("seconds", f"{report['seconds']:.3g}" if "seconds" in report else NONE),
        ("content hash", str(report.get("data_hash", NONE))),
        ("shards", str(report.get("shards", NONE))),
    ]
    made = [
        ("model", f"{report['name']} version {report['version']}"),
        ("detector", card.get("detector", NONE)),
        ("trained on data (manifest hash)", card.get("data", NONE)),
        ("calibration hash", calibration or NONE),
    ]
    gone = (
        [] if card else [Text("The model's files are no longer on this machine; its run in MLflow has them.", "note")]
    )
    return [Facts(batch, "Batch"), Facts(made, "Model"), *libraries(card), *gone]


def libraries(card: dict[str, Any]) -> list[Block]:
    """The versions of what a model was made with."""
    versions = card.get("versions", {})
    return [Facts(list(versions.items()), "Made with")] if versions else []


def _card(model: Path) -> dict[str, Any]:
    """What a model folder says of itself; empty where it cannot be read."""
    try:
        found = json.loads((model / CARD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _raw(line: Path) -> list[tuple[str, str]]:
    """What DVC says of the raw data that were read: path and hash of whatever `ingest` depends on besides code."""
    try:
        lock = yaml.safe_load((line / "dvc.lock").read_text(encoding="utf-8"))
        deps = lock["stages"]["ingest"]["deps"]
        found = [(dep["path"], dep.get("md5", "")) for dep in deps if not dep["path"].endswith(".py")]
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        return []
    return [(path, f"md5 {digest}") for path, digest in found if digest]


def _parts(line: Path) -> list[tuple[str, str]]:
    """How many samples of each label each part of the split has."""
    try:
        parts = pd.read_parquet(line / SPLIT).set_index("id")["part"]
        rows = pd.read_parquet(line / DATASET / "manifest.parquet", columns=["id", "label"])
    except (OSError, ValueError, KeyError):
        return []
    counts = rows.assign(part=rows["id"].map(parts)).groupby(["part", "label"]).size()
    found = []
    for part in ("train", "calibrate", "test", "unused"):
        told = [f"{counts[part, label]:,} {word}" for label, word in LABELS.items() if (part, label) in counts.index]
        if told:
            found.append((part, ", ".join(told)))
    return found
