"""The aliases of a line's registered model, and what is noted there about them: the only place that moves them.

`champion` scores, `previous` was champion before it, `challenger` is the best that is not champion. Every change of
champion is in the line's audit trail (pipeline/audit.py), written before it and counted after it.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pipeline.audit import APPROVE, BY_HAND, CALIBRATE, PROMOTE, REFUSE, ROLLBACK, Entry, Trail
from pipeline.tracking import Registry, Version

CHAMPION, PREVIOUS, CHALLENGER = "champion", "previous", "challenger"
CALIBRATION = "calibration"  # tag of a version: the hash of the calibration that it was last given
# notes on the registered model: which version promotion or a rollback made champion, the newest version that promotion
# has seen, and the newest version at the time of a person's decision
SET_TO, SEEN, DECIDED = "assay.champion", "assay.seen", "assay.decided"


@contextmanager
def moved(registry: Registry, name: str, aliases: Mapping[str, int | None], notes: Mapping[str, str]) -> Iterator[None]:
    """Set all of `aliases` (None removes one) and `notes`; when that fails, or the block does, all are as before."""
    found = {alias: registry.alias(name, alias) for alias in aliases}
    before = {alias: version and version.number for alias, version in found.items()}
    noted = registry.notes(name)
    try:
        for alias, number in aliases.items():
            registry.set_alias(name, alias, number)
        registry.note(name, dict(notes))
        yield
    except BaseException:
        for alias, number in before.items():
            registry.set_alias(name, alias, number)
        registry.note(name, {key: noted.get(key, "") for key in notes if noted.get(key, "") != notes[key]})
        raise


def open_trail(line: Path, registry: Registry, name: str) -> Trail:
    """The verified trail, without the entry that a killed process may have left: it counts if the move was made."""
    trail = Trail.open(line, registry, name)
    entry = trail.pending
    if entry is None:
        return trail
    champion = registry.alias(name, CHAMPION)
    stands = entry.to_version == (champion and champion.number)
    if entry.action in (PROMOTE, ROLLBACK) and stands:
        registry.set_alias(name, PREVIOUS, entry.from_version)
        registry.note(name, _notes(registry, entry))
        trail.count()
    elif entry.action in (APPROVE, REFUSE) or _noted(registry, entry) or _calibrated(registry, entry):
        trail.count()
    else:
        trail.drop()
    return trail


def _calibrated(registry: Registry, entry: Entry) -> bool:
    """Whether the thresholds of the entry are in force: their hash is in its reason."""
    version = registry.version(entry.name, entry.to_version or 0) if entry.action == CALIBRATE else None
    return version is not None and version.tags.get(CALIBRATION, "-") in entry.why


def _noted(registry: Registry, entry: Entry) -> bool:
    """Whether a move by hand was taken note of."""
    return entry.action == BY_HAND and registry.notes(entry.name).get(SET_TO, "") == str(entry.to_version or "")


def _notes(registry: Registry, entry: Entry) -> dict[str, str]:
    newest = str(registry.newest(entry.name))
    return {SET_TO: str(entry.to_version)} | ({DECIDED: newest} if entry.action == ROLLBACK else {})


def decided(registry: Registry, trail: Trail, name: str, champion: Version | None) -> int:
    """The newest version at the time of the last decision of a person; 0 without one. What was moved by hand since
    the last promotion is put on record."""
    notes = registry.notes(name)
    newest = int(notes.get(DECIDED) or 0)
    set_to, now = notes.get(SET_TO, ""), str(champion.number) if champion else ""
    if champion is None:
        newest = 0
    elif set_to != now:
        newest = max(int(notes.get(SEEN) or 0), champion.number)
    if set_to != now:
        before = (registry.version(name, int(set_to)) or Version(name, int(set_to), "", {})) if set_to else None
        why = "the alias champion was found moved, by somebody who did not say so here"
        with trail.entry(BY_HAND, before, champion, why) as count:
            registry.note(name, {DECIDED: str(newest), SET_TO: now})
            count()
    elif str(newest) != (notes.get(DECIDED) or "0"):
        registry.note(name, {DECIDED: str(newest)})
    return newest
