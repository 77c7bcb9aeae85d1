"""Promotion on a real line and a real store: what moves, what stays, what a person decided, what fails halfway."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline import params, promotion, publication, tracking
from pipeline.errors import LineError, RegistryError
from pipeline.files import write_json
from pipeline.tracking import Registry
from tests import small_line

FEW = {"few": small_line.PARAMS["candidates"]["few"]}
MANY = {"many": small_line.PARAMS["candidates"]["many"]}


def publish(line: Path, **sections: Any) -> None:
    given = small_line.write(line, small_line.PARAMS | sections)
    receipt, _ = publication.publish(given, line)
    write_json(line / "reports/published.json", receipt)


def promote(line: Path) -> dict[str, Any]:
    return promotion.promote(params.read(line / "params.yaml"), line)


def rollback(line: Path) -> dict[str, Any]:
    return promotion.rollback(params.read(line / "params.yaml"))


def aliases() -> dict[str, int | None]:
    registry = tracking.connect()
    found = {alias: registry.alias("parts", alias) for alias in ("champion", "previous", "challenger")}
    return {alias: version.number for alias, version in found.items() if version}


def test_the_best_that_passes_becomes_champion_and_stays(line: Path, store: str) -> None:
    publish(line)  # many is version 1 with an AUROC of 1, few is version 2 with less
    report = promote(line)
    assert (report["decision"], report["champion"], report["before"]) == ("promoted", 1, None)
    assert report["says"].startswith("parts version 1 (many) is champion: ")
    assert aliases() == {"champion": 1, "challenger": 2}
    assert json.loads((line / "reports/promotion.json").read_text()) == report
    assert tracking.connect().version("parts", 1).tags["verdict"] == "promoted"
    report = promote(line)
    assert (report["decision"], report["champion"], report["before"]) == ("stays", 1, 1)
    assert report["candidates"]["few"]["reasons"] == ["auroc 0.970741 does not exceed the champion's 1"]
    assert tracking.connect().version("parts", 2).tags["verdict"] == "refused"
    assert aliases() == {"champion": 1, "challenger": 2}


def test_a_better_one_replaces_the_champion_and_a_rollback_brings_it_back(line: Path, store: str) -> None:
    publish(line, candidates=FEW)
    assert promote(line)["champion"] == 1
    publish(line, candidates=MANY)
    report = promote(line)
    assert (report["decision"], report["champion"], report["before"]) == ("promoted", 2, 1)
    assert "instead of version 1" in report["says"]
    assert "auroc 1 exceeds the champion's 0.970741" in report["says"]
    assert aliases() == {"champion": 2, "previous": 1}
    assert rollback(line) == {"name": "parts", "champion": 1, "previous": 2}
    assert aliases() == {"champion": 1, "previous": 2}
    report = promote(line)  # what was rolled back does not come back by itself
    assert (report["decision"], report["champion"]) == ("refused", 1)
    assert report["candidates"]["many"]["reasons"] == [
        "version 2 is not newer than a person's choice of champion (made at 2)"
    ]
    assert rollback(line)["champion"] == 2


def test_a_champion_set_by_hand_is_honoured_until_there_is_something_newer(line: Path, store: str) -> None:
    publish(line)
    promote(line)
    tracking.connect().set_alias("parts", "champion", 2)  # as in MLflow's page
    for _ in range(2):
        report = promote(line)
        assert (report["decision"], report["champion"]) == ("stays", 2)
        assert not report["candidates"]["many"]["passed"]
    publish(line, candidates=MANY, split={"calibrate": 0.3, "test": 0.3, "order": "random"})  # new content: version 3
    report = promote(line)
    assert (report["decision"], report["champion"], report["before"]) == ("promoted", 3, 2)


def test_without_the_alias_the_line_starts_anew(line: Path, store: str) -> None:
    publish(line)
    promote(line)
    tracking.connect().set_alias("parts", "champion", 2)
    promote(line)
    tracking.connect().set_alias("parts", "champion", None)
    assert promote(line)["champion"] == 1


def test_limits_keep_everything_out(line: Path, store: str) -> None:
    publish(line, candidates=FEW, promote={"name": "parts", "limits": {"auroc": {"min": 0.99}}})
    report = promote(line)
    assert (report["decision"], report["champion"]) == ("refused", None)
    assert report["says"] == (
        "no candidate of parts is promoted, there is no champion; few: auroc 0.9707 is below the least allowed 0.99"
    )
    assert aliases() == {"challenger": 1}


def test_an_unusable_version_is_not_promoted(line: Path, store: str) -> None:
    publish(line, candidates=MANY)
    registry = tracking.connect()
    registry.tag(registry.version("parts", 1), {publication.UNUSABLE: "scores the golden batch differently"})
    assert promote(line)["candidates"]["many"]["reasons"] == [
        "version 1 is tagged unusable: it scores the golden batch differently"
    ]


def test_a_champion_tested_on_other_data_is_measured_again(line: Path, store: str) -> None:
    publish(line, candidates=FEW)
    promote(line)
    champion = tracking.connect().version("parts", 1)
    raw = line / "data/raw/parts.csv"
    small_line.table(150, 30, seed=5).to_csv(raw, index=False)
    small_line.write(line, small_line.PARAMS | {"candidates": MANY})
    small_line.run(line, "many")
    publish(line, candidates=MANY)
    measured = promotion._champion_metrics(tracking.connect(), champion, line)
    assert measured["auroc"] != tracking.connect().metrics(champion)["auroc"]
    report = promote(line)
    assert f"the champion's {measured['auroc']:.6g}" in report["says"]
    assert report["champion"] == 2


def test_a_champion_that_cannot_read_the_data_is_not_compared(line: Path, store: str) -> None:
    publish(line, candidates=FEW)
    promote(line)
    raw = line / "data/raw/parts.csv"
    small_line.table(150, 30, seed=5).rename(columns={"a": "other"}).to_csv(raw, index=False)
    small_line.write(line, small_line.PARAMS | {"candidates": MANY})
    small_line.run(line, "many")
    publish(line, candidates=MANY)
    report = promote(line)
    assert (report["decision"], report["champion"]) == ("refused", 1)
    (reason,) = report["candidates"]["many"]["reasons"]
    assert reason.startswith("the champion (version 1) cannot score the present test part")
    assert "remove its alias" in reason


@pytest.mark.parametrize("fails_at", [1, 2, 3])
def test_a_move_that_fails_halfway_is_taken_back(
    fails_at: int, line: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(line, candidates=FEW)
    promote(line)
    publish(line, candidates=MANY)
    before = aliases()
    set_alias, calls = Registry.set_alias, []

    def interrupted(self: Registry, name: str, alias: str, number: int | None) -> None:
        calls.append(alias)
        if len(calls) == fails_at:
            raise KeyboardInterrupt
        set_alias(self, name, alias, number)

    with monkeypatch.context() as patch:
        patch.setattr(Registry, "set_alias", interrupted)
        with pytest.raises(KeyboardInterrupt):
            promote(line)
    assert aliases() == before
    assert promote(line)["champion"] == 2


def test_a_rollback_without_a_previous_champion_says_so(line: Path, store: str) -> None:
    publish(line)
    with pytest.raises(RegistryError, match="champion and previous; champion is not set"):
        rollback(line)
    promote(line)
    with pytest.raises(RegistryError, match="champion and previous; previous is not set"):
        rollback(line)


def test_nothing_published_yet(line: Path, store: str) -> None:
    with pytest.raises(LineError, match=r"published\.json does not exist: publish first"):
        promote(line)


def test_a_fresh_registry_asks_for_publishing_again(line: Path, store: str) -> None:
    write_json(
        line / "reports/published.json",
        {"name": "parts", "candidates": {"many": {"version": 1, "run_id": "r", "content_hash": "c"}}},
    )
    with pytest.raises(LineError, match="dvc repro --force --single-item publish"):
        promote(line)
    assert not (line / "reports/promotion.json").exists()
