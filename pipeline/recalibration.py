"""New thresholds for a registered version, from the scores in its calibration: nothing is trained or exported again.

A new calibration is an artifact of the version's run, `calibrations/HASH.json`; tags of the version name the one in
force and say what it promises, and what the one before did. Scoring takes it from the next batch on, `mlflow models
serve` (see mlflow_model.py) from its next start on.
"""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pipeline import champion, metrics, threshold, tracking
from pipeline.audit import CALIBRATE
from pipeline.errors import RegistryError
from pipeline.files import sha256, write_json
from pipeline.model import CALIBRATION, Model
from pipeline.params import Params
from pipeline.plan import Plan
from pipeline.threshold import Calibration
from pipeline.tracking import Registry, Version

FOLDER = "calibrations"
HASH, SAYS, SAID = champion.CALIBRATION, "calibration_says", "calibration_before"  # tags of a version


def load(registry: Registry, version: Version, into: Path) -> Model:
    """The model of a version with the thresholds that it was last given, downloaded into the folder `into`.

    Raises ModelError when the calibration is damaged or of another model."""
    return Model.load(*download(registry, version, into))


def download(registry: Registry, version: Version, into: Path) -> tuple[Path, Path]:
    """The model folder of a version and the calibration that it was last given, downloaded into the folder `into`.

    Raises RegistryError when the calibration is not the one that the version's tag names."""
    folder = registry.download(version, into)
    return folder, given(registry, version, into) or folder / CALIBRATION


def given(registry: Registry, version: Version, into: Path) -> Path | None:
    """The calibration that a version was last given, downloaded into the folder `into`; None without one.

    Raises RegistryError when it is not the one that the version's tag names."""
    digest = version.tags.get(HASH)
    if digest is None:
        return None
    path = registry.artifact(version, f"{FOLDER}/{digest[:12]}.json", into / "given")
    if sha256(path) != digest:
        raise RegistryError(
            f"the calibration {path.name} of {version.name} version {version.number} must be the one that its tag"
            f" {HASH} names; calibrate it again (python -m flows.calibrate)"
        )
    return path


def of_run(run_id: str, into: Path) -> Path | None:
    """As `given`, of the version that came from a run, in the registry that MLflow is set to in this process.

    None, too, where that holds no such version, or there is none: a model may be served from its files alone."""
    registry = tracking.current()
    version = registry and run_id and registry.of_run(run_id)
    return given(registry, version, into) if registry and version else None


def recalibrate(
    params: Params, line: Path, changes: Mapping[str, Any], number: int | None = None, who: str = "", why: str = ""
) -> dict[str, Any]:
    """Give a version (by default the champion) the thresholds that its plan with `changes` asks for; what was and is.

    `changes` are keys of the section `calibrate` of params.yaml; with another `rule` the options of the old one go. It
    goes on record in the audit trail of the folder `line`, with `who` and `why`.
    Raises ParamsError for what is not allowed, PromiseError when the version's calibration scores do not carry it,
    RegistryError when there is no such version, LineError when the audit trail is broken."""
    name = params.promote.name
    registry = tracking.connect()
    with registry.exclusive(), TemporaryDirectory(prefix="assay-calibrate-") as work:
        version = registry.alias(name, champion.CHAMPION) if number is None else registry.version(name, number)
        if version is None:
            which = "champion" if number is None else f"version {number}"
            raise RegistryError(f"{name} has no {which} to calibrate")
        before = load(registry, version, Path(work) / "model").calibration
        section = before.plan.section()
        if changes.get("rule", section["rule"]) != section["rule"]:
            section = {key: section[key] for key in ("review", "by")}
        plan = Plan.read({**section, **changes}, "calibrate", "--set")
        after = threshold.calibrate(plan, before.known, before.model)
        path = Path(work) / CALIBRATION
        write_json(path, after.to_json())
        digest = sha256(path)
        path = path.rename(path.with_name(f"{digest[:12]}.json"))
        registry.upload(version, path, FOLDER)
        with champion.open_trail(line, registry, name).entry(
            CALIBRATE, version, version, f"calibration {digest}: {why or 'asked for'}; {after.says()}", who
        ) as count:
            registry.tag(version, {SAID: before.says(), SAYS: after.says(), HASH: digest})
            count()
        realised = _realised(registry, version, after, Path(work))
        for key, value in realised.items():
            registry.log_metric(version, key, value)
    return {
        "name": name,
        "version": version.number,
        "calibration": digest,
        "before": {"thresholds": before.thresholds, "says": before.says()},
        "after": {"thresholds": after.thresholds, "says": after.says()},
        "test": realised,
    }


def _realised(registry: Registry, version: Version, calibration: Calibration, work: Path) -> dict[str, float]:
    """What the new thresholds do on the test part that the version was evaluated on; empty for thresholds by group,
    since its report does not keep the groups."""
    import pandas as pd

    promised = {
        "promised_false_alarm_rate": calibration.promised_false_alarms,
        "promised_escape_rate": calibration.promised_escapes,
    }
    found = {key: value for key, value in promised.items() if value is not None}
    if calibration.own:
        return found
    table = pd.read_parquet(registry.artifact(version, "report/scores.parquet", work / "report"))
    known = table[table["label"].isin([0, 1])]
    alarm = calibration.thresholds["alarm"]
    done = metrics.decision_metrics(known["label"].to_numpy(), known["score"].to_numpy(), alarm)
    share = float((calibration.decide(table["score"].to_numpy()) == "review").mean())
    return found | {key: float(value) for key, value in done.items()} | {"review_share": share}
