"""Move the alias `champion` to the best candidate that passes the gate, or say why not; and back again.

What a person decides is honoured: after a rollback, or after `champion` was moved by hand, only versions that
are newer than that decision are promoted. Without the alias `champion` the line starts anew. Nothing moves before
the line's audit trail is verified, and every move is in it (pipeline/audit.py).
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline import gate, tracking
from pipeline.audit import APPROVE, PROMOTE, REFUSE, ROLLBACK, Trail
from pipeline.candidate import hash_of_test
from pipeline.champion import CHALLENGER, CHAMPION, DECIDED, PREVIOUS, SEEN, SET_TO, decided, moved, open_trail
from pipeline.errors import LineError, RegistryError
from pipeline.files import write_json
from pipeline.gate import Measured, Verdict
from pipeline.measured import measure
from pipeline.params import Params
from pipeline.publication import CHECKED, UNUSABLE, missing_versions
from pipeline.stages import RECEIPT
from pipeline.tracking import TAG, Registry, Version

REPORT = Path("reports/promotion.json")


@dataclass(frozen=True)
class Answer:
    """What a person said about promoting the version `version`; `who` is empty when nobody said anything."""

    version: int
    approved: bool
    who: str
    why: str


def promote(params: Params, line: Path, answer: Answer | None = None) -> dict[str, Any]:
    """Judge the candidates of the line's receipt; write the report to `reports/promotion.json` and return it.

    `decision` is `promoted`, `stays` (the best candidate is champion already), `refused` or, with `approve: manual` and
    without an `answer`, `waits`: the champion stays until this is called again with the answer about the version that
    the report names as `waits`. Raises LineError when nothing was published, when the registry does not hold what the
    receipt says, or when the audit trail is broken; then nothing has moved."""
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
        trail = open_trail(line, registry, name)
        report = _decide(_judge(registry, trail, params, line, receipt), answer, params.promote.approve == "manual")
    write_json(line / REPORT, report)
    return report


def rollback(params: Params, line: Path, who: str = "", why: str = "") -> dict[str, Any]:
    """Let `champion` and `previous` change places; what is registered by now is not promoted over that choice.

    `who` and `why` are for the audit trail in the folder `line`. Raises RegistryError when either alias is missing,
    LineError when the trail is broken."""
    name = params.promote.name
    registry = tracking.connect()
    with registry.exclusive():
        trail = open_trail(line, registry, name) if registry.newest(name) else None
        champion, previous = registry.alias(name, CHAMPION), registry.alias(name, PREVIOUS)
        if trail is None or champion is None or previous is None:
            absent = CHAMPION if champion is None else PREVIOUS
            raise RegistryError(f"a rollback of {name} needs the aliases champion and previous; {absent} is not set")
        decided(registry, trail, name, champion)  # a move by hand before this comes first on record
        aliases = {CHAMPION: previous.number, PREVIOUS: champion.number}
        notes = {SET_TO: str(previous.number), DECIDED: str(registry.newest(name))}
        with (
            trail.entry(ROLLBACK, champion, previous, why or "a rollback was asked for", who) as count,
            moved(registry, name, aliases, notes),
        ):
            count()
    return {"name": name, "champion": previous.number, "previous": champion.number}


def read_receipt(line: Path) -> dict[str, Any]:
    """The receipt of the last publication. Raises LineError when there is none."""
    try:
        return json.loads((line / RECEIPT).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise LineError(f"{line / RECEIPT} does not exist: publish first (dvc repro publish)") from error


@dataclass(frozen=True)
class _Judged:
    """The candidates as the gate sees them: versions, the deciding metric, and verdicts, the best candidate first."""

    registry: Registry
    trail: Trail
    name: str
    metric: str
    champion: Version | None
    versions: dict[str, Version]
    measured: dict[str, float | None]
    same: list[str]  # candidates that are champion already
    verdicts: dict[str, Verdict]  # of the others

    @property
    def winner(self) -> str | None:
        return next((c for c, verdict in self.verdicts.items() if verdict.passed), None)


def _judge(registry: Registry, trail: Trail, params: Params, line: Path, receipt: dict[str, Any]) -> _Judged:
    name = receipt["name"]
    metric = params.promote.against_champion.metric
    champion = registry.alias(name, CHAMPION)
    decided_at = decided(registry, trail, name, champion)
    versions = {c: registry.version(name, entry["version"]) for c, entry in receipt["candidates"].items()}
    same = [c for c, v in versions.items() if champion and v.tags["content_hash"] == champion.tags.get("content_hash")]
    rivals = [c for c in versions if c not in same]
    test = hash_of_test(line)
    to_beat = measure(registry, champion, line, test) if champion and rivals else None
    if isinstance(to_beat, str):
        to_beat = (
            f"the champion (version {champion.number}) cannot score the present test part, so nothing can be compared "
            f"({to_beat}); remove its alias in MLflow to start anew"
        )
    found = {c: measure(registry, versions[c], line, test) for c in rivals}
    measured = {c: None if isinstance(t, str) else t.metrics.get(metric) for c, t in found.items()}
    ranked = sorted(rivals, key=lambda c: -float("inf") if measured[c] is None else measured[c], reverse=True)
    verdicts = {c: _verdict(params, versions[c], found[c], to_beat, decided_at) for c in ranked}
    measured |= {c: registry.metrics(versions[c]).get(metric) for c in same}
    return _Judged(registry, trail, name, metric, champion, versions, measured, same, verdicts)


def _verdict(
    params: Params, version: Version, found: Measured | str, to_beat: Measured | str | None, decided_at: int
) -> Verdict:
    if version.number <= decided_at:
        says = f"version {version.number} is not newer than a person's choice of champion (made at {decided_at})"
        return gate.refusal("newer than a person's choice", says)
    if UNUSABLE in version.tags:
        return gate.refusal("usable", f"version {version.number} is tagged unusable: it {version.tags[UNUSABLE]}")
    if isinstance(found, str):
        return gate.refusal("measured", f"version {version.number} cannot score the present test part ({found})")
    if isinstance(to_beat, str):
        return gate.refusal("champion measured", to_beat)
    golden = version.tags.get(CHECKED)
    demands = params.promote
    difference = None if golden is None else float(golden)
    return gate.verdict(found, demands.limits, to_beat, demands.against_champion, difference)


def _decide(judged: _Judged, answer: Answer | None, manual: bool) -> dict[str, Any]:
    """Move what has to move, put it on record, tag the versions; the report."""
    registry, name, champion, winner = judged.registry, judged.name, judged.champion, judged.winner
    if answer is not None:
        about = registry.version(name, answer.version)
        action = APPROVE if answer.approved else REFUSE
        judged.trail.note(action, champion, about, answer.why, answer.who or "nobody")
    version = judged.versions[winner] if winner else None
    waits = version is not None and manual and answer is None
    held = _held(version, answer) if version else None
    promoted = version is not None and not waits and held is None
    others = [c for c in judged.verdicts if not (promoted and c == winner)]
    aliases = {CHALLENGER: judged.versions[others[0]].number if others else None}
    notes = {SET_TO: str(champion.number) if champion else "", SEEN: str(registry.newest(name))}
    if promoted:
        first = {CHAMPION: version.number} | ({PREVIOUS: champion.number} if champion else {})
        approved = f"; approved by {answer.who}" if answer else ""
        why = "; ".join(judged.verdicts[winner].reasons) + approved
        with (
            judged.trail.entry(PROMOTE, champion, version, why) as count,
            moved(registry, name, first | aliases, notes | {SET_TO: str(version.number)}),
        ):
            count()
    else:
        with moved(registry, name, aliases, notes):
            pass
    for c, verdict in judged.verdicts.items():
        said = "promoted" if promoted and c == winner else "passed" if verdict.passed else "refused"
        tags = {"verdict": said, "verdict_reasons": "; ".join(verdict.reasons), "verdict_figures": verdict.figures(TAG)}
        registry.tag(judged.versions[c], tags)
        registry.tag_run(judged.versions[c], "verdict", said)
    decision = "promoted" if promoted else "waits" if waits else "stays" if judged.same and not held else "refused"
    return {
        "name": name,
        "decision": decision,
        "champion": version.number if promoted else champion and champion.number,
        "before": champion and champion.number,
        "waits": version.number if waits else None,
        "metric": judged.metric,
        "says": _says(judged, decision, held),
        "candidates": {c: _row(judged, c) for c in judged.versions},
    }


def _held(version: Version, answer: Answer | None) -> str | None:
    """Why a version that passes the gate is not promoted all the same; None when nothing is against it."""
    if answer is None or (answer.approved and answer.version == version.number):
        return None
    if answer.approved:
        return f"version {answer.version} was approved by {answer.who}, but version {version.number} is the best by now"
    because = f": {answer.why}" if answer.why else ""
    return f"version {answer.version} was not approved{f' by {answer.who}' if answer.who else ''}{because}"


def _row(judged: _Judged, candidate: str) -> dict[str, Any]:
    """What the report says of one candidate."""
    row = {"version": judged.versions[candidate].number, "metric": judged.measured[candidate]}
    if candidate in judged.same:
        reason = f"version {judged.champion.number} with this content is champion"
        return row | {"passed": True, "reasons": [reason], "checks": []}
    verdict = judged.verdicts[candidate]
    checks = [asdict(check) for check in verdict.checks]
    return row | {"passed": verdict.passed, "reasons": verdict.reasons, "checks": checks}


def _says(judged: _Judged, decision: str, held: str | None) -> str:
    """The decision in one sentence."""
    name, champion, winner, same = judged.name, judged.champion, judged.winner, judged.same
    if decision in ("promoted", "waits"):
        number, why = judged.versions[winner].number, "; ".join(judged.verdicts[winner].reasons)
        if decision == "waits":
            return f"{name} version {number} ({winner}) waits for a person's approval: {why}"
        instead = f" instead of version {champion.number}" if champion else ""
        return f"{name} version {number} ({winner}) is champion{instead}: {why}"
    kept = f"version {champion.number} stays champion" if champion else "there is no champion"
    if held:
        return f"no candidate of {name} is promoted, {kept}; {winner}: {held}"
    others = "; ".join(f"{c}: {', '.join(verdict.reasons)}" for c, verdict in judged.verdicts.items())
    if same:
        return f"{name} version {champion.number} ({same[0]}) stays champion" + (f"; {others}" if others else "")
    return f"no candidate of {name} is promoted, {kept}; {others}"
