"""Move the alias `champion` to the best candidate that passes the gate, or say why not; and back again.

Aliases: `champion` scores, `previous` was champion before it, `challenger` is the best that is not champion.
What a person decides is honoured: after a rollback, or after `champion` was moved by hand, only versions that
are newer than that decision are promoted. Without the alias `champion` the line starts anew.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pipeline import evaluation, gate, tracking
from pipeline.candidate import flat, hash_of_test
from pipeline.errors import DataError, LineError, ModelError, RegistryError
from pipeline.files import write_json
from pipeline.gate import Verdict
from pipeline.model import Model
from pipeline.params import Params
from pipeline.publication import CHECKED, UNUSABLE, missing_versions
from pipeline.samples import part
from pipeline.stages import DATASET, RECEIPT, SPLIT
from pipeline.tracking import Registry, Version

REPORT = Path("reports/promotion.json")
CHAMPION, PREVIOUS, CHALLENGER = "champion", "previous", "challenger"
# notes on the registered model: which version this module made champion, the newest version it has seen,
# and the newest version at the time of a person's decision
SET_TO, SEEN, DECIDED = "assay.champion", "assay.seen", "assay.decided"


def promote(params: Params, line: Path) -> dict[str, Any]:
    """Judge the candidates of the line's receipt; write the report to `reports/promotion.json` and return it.

    `decision` is `promoted`, `stays` (the best candidate is champion already) or `refused`. Raises LineError when
    nothing was published, or when the registry does not hold what the receipt says."""
    receipt = read_receipt(line)
    name = receipt["name"]
    registry = tracking.connect()
    missing = missing_versions(receipt, registry)
    if missing:
        raise LineError(
            f"the registry holds no version for {', '.join(missing)} of {line / RECEIPT} (it is another one, or was "
            "emptied): run dvc repro --force --single-item publish"
        )
    with registry.exclusive():
        report = _judge(registry, params, line, receipt)
        registry.note(name, {SET_TO: str(report["champion"] or ""), SEEN: str(registry.newest(name))})
    write_json(line / REPORT, report)
    return report


def rollback(params: Params) -> dict[str, Any]:
    """Let `champion` and `previous` change places; what is registered by now is not promoted over that choice.

    Raises RegistryError when either alias is missing."""
    name = params.promote.name
    registry = tracking.connect()
    with registry.exclusive():
        champion, previous = registry.alias(name, CHAMPION), registry.alias(name, PREVIOUS)
        if champion is None or previous is None:
            absent = CHAMPION if champion is None else PREVIOUS
            raise RegistryError(f"a rollback of {name} needs the aliases champion and previous; {absent} is not set")
        move(registry, name, {PREVIOUS: champion.number, CHAMPION: previous.number})
        registry.note(name, {SET_TO: str(previous.number), DECIDED: str(registry.newest(name))})
    return {"name": name, "champion": previous.number, "previous": champion.number}


def move(registry: Registry, name: str, aliases: Mapping[str, int | None]) -> None:
    """Set all of `aliases` (None removes one) or, when one cannot be set, none of them."""
    found = {alias: registry.alias(name, alias) for alias in aliases}
    before = {alias: version and version.number for alias, version in found.items()}
    try:
        for alias, number in aliases.items():
            registry.set_alias(name, alias, number)
    except BaseException:
        for alias, number in before.items():
            registry.set_alias(name, alias, number)
        raise


def read_receipt(line: Path) -> dict[str, Any]:
    """The receipt of the last publication. Raises LineError when there is none."""
    try:
        return json.loads((line / RECEIPT).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise LineError(f"{line / RECEIPT} does not exist: publish first (dvc repro publish)") from error


def _judge(registry: Registry, params: Params, line: Path, receipt: dict[str, Any]) -> dict[str, Any]:
    name = receipt["name"]
    metric = params.promote.against_champion.metric
    champion = registry.alias(name, CHAMPION)
    decided = _decided(registry, name, champion)
    versions = {c: registry.version(name, entry["version"]) for c, entry in receipt["candidates"].items()}
    measured = {c: registry.metrics(version) for c, version in versions.items()}
    same = [c for c, v in versions.items() if champion and v.tags["content_hash"] == champion.tags.get("content_hash")]
    rivals = [c for c in versions if c not in same]
    to_beat = _champion_metrics(registry, champion, line) if champion and rivals else None
    verdicts = {c: _verdict(params, versions[c], measured[c], to_beat, decided) for c in rivals}
    ranked = sorted(rivals, key=lambda c: -measured[c].get(metric, float("-inf")))
    winner = next((c for c in ranked if verdicts[c].passed), None)
    aliases = {CHALLENGER: versions[ranked[0]].number if ranked else None}
    if winner:
        others = [c for c in ranked if c != winner]
        aliases = {CHALLENGER: versions[others[0]].number if others else None}
        aliases |= ({PREVIOUS: champion.number} if champion else {}) | {CHAMPION: versions[winner].number}
    move(registry, name, aliases)
    for c, verdict in verdicts.items():
        said = "promoted" if c == winner else "passed" if verdict.passed else "refused"
        registry.tag(versions[c], {"verdict": said, "verdict_reasons": "; ".join(verdict.reasons)})
    return {
        "name": name,
        "decision": "promoted" if winner else "stays" if same else "refused",
        "champion": versions[winner].number if winner else champion and champion.number,
        "before": champion and champion.number,
        "metric": metric,
        "says": _says(name, winner, versions, verdicts, champion, same),
        "candidates": {
            c: {
                "version": versions[c].number,
                "metric": measured[c].get(metric),
                "passed": c in same or verdicts[c].passed,
                "reasons": [f"version {champion.number} with this content is champion"]
                if c in same
                else verdicts[c].reasons,
            }
            for c in versions
        },
    }


def _says(
    name: str,
    winner: str | None,
    versions: dict[str, Version],
    verdicts: dict[str, Verdict],
    champion: Version | None,
    same: list[str],
) -> str:
    """The decision in one sentence."""
    if winner:
        instead = f" instead of version {champion.number}" if champion else ""
        why = "; ".join(verdicts[winner].reasons)
        return f"{name} version {versions[winner].number} ({winner}) is champion{instead}: {why}"
    others = "; ".join(f"{c}: {', '.join(verdict.reasons)}" for c, verdict in verdicts.items())
    if same:
        return f"{name} version {champion.number} ({same[0]}) stays champion" + (f"; {others}" if others else "")
    kept = f"version {champion.number} stays champion" if champion else "there is no champion"
    return f"no candidate of {name} is promoted, {kept}; {others}"


def _decided(registry: Registry, name: str, champion: Version | None) -> int:
    """The newest version at the time of the last decision of a person; 0 without one."""
    notes = registry.notes(name)
    decided = int(notes.get(DECIDED, 0))
    if champion is None:
        decided = 0
    elif notes.get(SET_TO, "") != str(champion.number):
        decided = max(int(notes.get(SEEN, 0)), champion.number)
    if str(decided) != notes.get(DECIDED, "0"):
        registry.note(name, {DECIDED: str(decided)})
    return decided


def _verdict(
    params: Params, version: Version, metrics: dict[str, float], to_beat: dict[str, float] | str | None, decided: int
) -> Verdict:
    if version.number <= decided:
        return Verdict(
            False, [f"version {version.number} is not newer than a person's choice of champion (made at {decided})"]
        )
    if UNUSABLE in version.tags:
        return Verdict(False, [f"version {version.number} is tagged unusable: it {version.tags[UNUSABLE]}"])
    if isinstance(to_beat, str):
        return Verdict(False, [to_beat])
    golden = version.tags.get(CHECKED)
    against = params.promote.against_champion
    return gate.verdict(metrics, params.promote.limits, to_beat, against, None if golden is None else float(golden))


def _champion_metrics(registry: Registry, champion: Version, line: Path) -> dict[str, float] | str:
    """The champion's metrics on the line's present test part: its run's, or measured now if that was on other data.

    A sentence when it cannot be measured there."""
    if champion.tags.get("test_hash") == hash_of_test(line):
        return registry.metrics(champion)
    try:
        with TemporaryDirectory(prefix="assay-champion-") as work:
            model = Model.load(registry.download(champion, Path(work)))
            modality = model.stored.modality
            samples = modality.samples(part(line / DATASET, line / SPLIT, "test"))
            out = Path(work) / "report"
            out.mkdir()
            metrics = evaluation.evaluate(model.stored.detector, model.calibration, samples, modality, out)
    except (DataError, ModelError) as error:
        return (
            f"the champion (version {champion.number}) cannot score the present test part, so nothing can be compared "
            f"({error}); remove its alias in MLflow to start anew"
        )
    return {key: float(value) for key, value in flat(metrics).items() if isinstance(value, int | float)}
