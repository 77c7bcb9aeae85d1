"""Promotion on a real line and a real store: what moves, what stays, what a person decided, what fails halfway."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline import audit, measured, params, promotion, publication, recalibration, tracking
from pipeline.candidate import hash_of_test
from pipeline.errors import LineError, RegistryError
from pipeline.files import write_json
from pipeline.gate import Measured
from pipeline.promotion import Answer
from pipeline.tracking import Registry
from tests import small_line
from tests.conftest import copied

ROOT = Path(__file__).parents[1]

FEW = {"few": small_line.PARAMS["candidates"]["few"]}
MANY = {"many": small_line.PARAMS["candidates"]["many"]}
# the tests of what moves ask for a better figure only: the small test part makes hardly anything certain
MARGIN = small_line.PARAMS["promote"] | {"against_champion": {"rule": "margin"}}
INTERVAL = small_line.PARAMS["promote"]
MANUAL = MARGIN | {"approve": "manual"}


def publish(line: Path, **sections: Any) -> None:
    given = small_line.write(line, small_line.PARAMS | {"promote": MARGIN} | sections)
    receipt, _ = publication.publish(given, line)
    write_json(line / "reports/published.json", receipt)


def promote(line: Path, answer: Answer | None = None) -> dict[str, Any]:
    return promotion.promote(params.read(line / "params.yaml"), line, answer)


def rollback(line: Path, **said: str) -> dict[str, Any]:
    return promotion.rollback(params.read(line / "params.yaml"), line, **said)


def trail(line: Path) -> list[tuple[str, int | None, int | None]]:
    """What the verified audit trail says: action, from, to."""
    entries = audit.Trail.open(line, tracking.connect(), "parts").entries
    return [(entry.action, entry.from_version, entry.to_version) for entry in entries]


def aliases() -> dict[str, int | None]:
    registry = tracking.connect()
    found = {alias: registry.alias("parts", alias) for alias in ("champion", "previous", "challenger")}
    return {alias: version.number for alias, version in found.items() if version}


@pytest.fixture(scope="module")
def first(line_that_ran: Path, empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the small line and its store, in which version 1, the candidate few, is champion; not to change."""
    folder = tmp_path_factory.mktemp("first")
    copied(empty_store, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        line = Path(shutil.copytree(line_that_ran, folder / "line"))
        publish(line, candidates=FEW)
        promote(line)
    return folder


@pytest.fixture(scope="module")
def second(first: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same after version 2, the candidate many, was published."""
    folder = tmp_path_factory.mktemp("second")
    copied(first / "mlflow.db", folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        publish(Path(shutil.copytree(first / "line", folder / "line")), candidates=MANY)
    return folder


def become(line: Path, folder: Path) -> None:
    """Make the test's own line and store what they are in `folder`."""
    shutil.rmtree(line)
    shutil.copytree(folder / "line", line)
    copied(folder / "mlflow.db", line.parent / "mlflow.db")


@pytest.fixture
def kept(line: Path, store: str, first: Path) -> None:
    """Version 1, the candidate few, is champion."""
    become(line, first)


@pytest.fixture
def challenged(line: Path, store: str, second: Path) -> None:
    """Version 1, the candidate few, is champion, and version 2, the candidate many, was published since."""
    become(line, second)


def test_the_best_that_passes_becomes_champion_and_stays(line: Path, store: str) -> None:
    publish(line)  # many is version 1 with an AUROC of 1, few is version 2 with less
    report = promote(line)
    assert (report["decision"], report["champion"], report["before"]) == ("promoted", 1, None)
    assert report["says"].startswith("parts version 1 (many) is champion: ")
    assert aliases() == {"champion": 1, "challenger": 2}
    assert json.loads((line / "reports/promotion.json").read_text()) == report
    tags = tracking.connect().version("parts", 1).tags
    assert tags["verdict"] == "promoted"
    assert json.loads(tags["verdict_figures"]) == report["candidates"]["many"]["checks"]
    assert [check["name"] for check in report["candidates"]["many"]["checks"]] == [
        "golden batch",
        "auroc min",
        "auroc against the champion",
    ]
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
    write_json(line / "promoted.json", report["candidates"]["many"]["reasons"])
    assert aliases() == {"champion": 2, "previous": 1}
    assert rollback(line) == {"name": "parts", "champion": 1, "previous": 2}
    assert aliases() == {"champion": 1, "previous": 2}
    report = promote(line)  # what was rolled back does not come back by itself
    assert (report["decision"], report["champion"]) == ("refused", 1)
    assert report["candidates"]["many"]["reasons"] == [
        "version 2 is not newer than a person's choice of champion (made at 2)"
    ]
    assert rollback(line, who="anna", why="false alarms at night")["champion"] == 2
    entries = audit.Trail.open(line, tracking.connect(), "parts").entries
    assert trail(line) == [("promote", None, 1), ("promote", 1, 2), ("rollback", 2, 1), ("rollback", 1, 2)]
    assert (entries[2].who, entries[3].who, entries[3].why) == (audit.whoami(), "anna", "false alarms at night")
    assert entries[1].why == "; ".join(json.loads((line / "promoted.json").read_text()))
    hashes = [tracking.connect().version("parts", number).tags["content_hash"] for number in (1, 2)]
    assert [entries[1].from_hash, entries[1].to_hash] == hashes


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
    assert trail(line) == [("promote", None, 1), ("moved by hand", 1, 2), ("promote", 2, 3)]


def test_without_the_alias_the_line_starts_anew(line: Path, store: str) -> None:
    publish(line)
    promote(line)
    tracking.connect().set_alias("parts", "champion", 2)
    promote(line)
    tracking.connect().set_alias("parts", "champion", None)
    assert promote(line)["champion"] == 1
    assert trail(line)[2:] == [("moved by hand", 2, None), ("promote", None, 1)]


def test_a_move_by_hand_before_a_rollback_is_on_record(line: Path, store: str) -> None:
    publish(line)
    promote(line)
    registry = tracking.connect()
    registry.set_alias("parts", "previous", 1)
    registry.set_alias("parts", "champion", 2)
    rollback(line)
    assert trail(line) == [("promote", None, 1), ("moved by hand", 1, 2), ("rollback", 2, 1)]


def test_limits_keep_everything_out(line: Path, store: str) -> None:
    publish(line, candidates=FEW, promote=MARGIN | {"limits": {"auroc": {"min": 0.99}}})
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


def test_a_champion_tested_on_other_data_is_measured_again(line: Path, kept: None) -> None:
    champion = tracking.connect().version("parts", 1)
    raw = line / "data/raw/parts.csv"
    small_line.table(150, 30, seed=5).to_csv(raw, index=False)
    small_line.write(line, small_line.PARAMS | {"candidates": MANY})
    small_line.run(line, "many")
    publish(line, candidates=MANY)
    found = measured.measure(tracking.connect(), champion, line, hash_of_test(line))
    assert isinstance(found, Measured)
    assert found.metrics["auroc"] != tracking.connect().metrics(champion)["auroc"]
    assert set(found.table["id"]) == set(
        small_line.pd.read_parquet(line / "reports/candidates/many/scores.parquet")["id"]
    )
    report = promote(line)
    assert f"the champion's {found.metrics['auroc']:.6g}" in report["says"]
    assert report["champion"] == 2


def test_a_champion_that_cannot_read_the_data_is_not_compared(line: Path, kept: None) -> None:
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
    fails_at: int, line: Path, challenged: None, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    assert trail(line) == [("promote", None, 1)]
    assert promote(line)["champion"] == 2
    assert trail(line) == [("promote", None, 1), ("promote", 1, 2)]


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


def test_better_by_luck_is_not_promoted(line: Path, kept: None) -> None:
    publish(line, candidates=MANY, promote=INTERVAL)  # an AUROC of 1 instead of 0.97, on 45 normals and 30 anomalies
    report = promote(line)
    assert (report["decision"], report["champion"]) == ("refused", 1)
    check = report["candidates"]["many"]["checks"][-1]
    assert check["value"] == pytest.approx(1 - 0.970741, abs=1e-6)
    assert check["interval"][0] == 0
    assert check["interval"][1] > check["value"]
    assert "but not for certain" in report["says"]
    tolerant = INTERVAL | {"against_champion": {"metric": "auroc", "tolerance": 0.001}}
    publish(line, candidates=MANY, promote=tolerant)
    report = promote(line)
    assert (report["decision"], report["champion"]) == ("promoted", 2)
    assert "minus the tolerance 0.001: the 95 % interval of the difference, 0 to 0." in report["says"]


def test_a_report_that_is_gone_is_measured_again(line: Path, store: str) -> None:
    publish(line, candidates=FEW)
    promote(line)
    registry = tracking.connect()
    champion = registry.version("parts", 1)
    first = measured.measure(registry, champion, line, hash_of_test(line))
    shutil.rmtree(registry.artifact(champion, "report", line / "x").parent)
    (gone,) = (
        path.parent for path in Path(store.removeprefix("sqlite:///")).parent.glob("mlartifacts/**/report/roc.csv")
    )
    shutil.rmtree(gone)
    again = measured.measure(registry, champion, line, hash_of_test(line))
    assert again.metrics["auroc"] == first.metrics["auroc"]
    small_line.pd.testing.assert_frame_equal(again.table, first.table)


def test_thresholds_that_were_set_anew_count(line: Path, kept: None) -> None:
    registry, test = tracking.connect(), hash_of_test(line)
    first = measured.measure(registry, registry.version("parts", 1), line, test)
    recalibration.recalibrate(params.read(line / "params.yaml"), line, {"alpha": 0.5})
    again = measured.measure(registry, registry.version("parts", 1), line, test)
    assert again.metrics["promised_false_alarm_rate"] == pytest.approx(0.5, abs=0.02)
    assert (again.table["decision"] == "reject").sum() > (first.table["decision"] == "reject").sum()
    assert again.table["score"].tolist() == first.table["score"].tolist()


def test_nothing_moves_on_a_broken_trail(line: Path, challenged: None) -> None:
    promote(line)
    before = aliases()
    path = line / "audit.jsonl"
    text = path.read_text()
    path.write_text(text.replace('"to_version": 1', '"to_version": 2', 1))
    for act in (promote, rollback):
        with pytest.raises(LineError, match="line 1 was altered"):
            act(line)
    path.unlink()
    with pytest.raises(LineError, match="it is missing: the registry remembers 2 lines, line 1 is gone"):
        promote(line)
    assert aliases() == before
    path.write_text(text)
    assert promote(line)["decision"] == "stays"


def test_a_trail_that_cannot_be_written_moves_nothing(line: Path, store: str) -> None:
    publish(line, candidates=FEW)
    (line / "audit.jsonl").mkdir()
    with pytest.raises(OSError, match="audit.jsonl"):
        promote(line)
    assert aliases() == {}
    (line / "audit.jsonl").rmdir()
    assert promote(line)["champion"] == 1


def test_a_registry_that_fails_at_the_very_end_takes_the_move_back(
    line: Path, challenged: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    note, failed = Registry.note, []

    def failing(self: Registry, name: str, notes: dict[str, str]) -> None:
        if audit.HEAD in notes and not failed:
            failed.append(notes)
            raise RegistryError("down")
        note(self, name, notes)

    with monkeypatch.context() as patch:
        patch.setattr(Registry, "note", failing)
        with pytest.raises(RegistryError, match="down"):
            promote(line)
    assert failed
    assert aliases() == {"champion": 1}
    assert trail(line) == [("promote", None, 1)]
    assert promote(line)["champion"] == 2  # and nobody is taken to have moved the alias by hand
    assert trail(line) == [("promote", None, 1), ("promote", 1, 2)]


KILLED = """
import os, sys
from pathlib import Path
from pipeline import params, promotion
from pipeline.tracking import Registry

what, place = sys.argv[2], int(sys.argv[3])
method, calls = getattr(Registry, what), []

def killed(self, *words):
    calls.append(words)
    if len(calls) == place:
        os.kill(os.getpid(), 9)
    return method(self, *words)

line = Path(sys.argv[1])
given = params.read(line / "params.yaml")
setattr(Registry, what, killed)
if sys.argv[4] == "promote":
    promotion.promote(given, line)
else:
    promotion.rollback(given, line)
"""


def killed(line: Path, what: str, place: int, act: str) -> None:
    """Promote, or roll back, in a process that is killed at the call number `place` of a method of the registry."""
    words = [sys.executable, "-c", KILLED, str(line), what, str(place), act]
    ended = subprocess.run(words, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=120)
    assert ended.returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    ("what", "place", "moved"), [("set_alias", 1, False), ("set_alias", 2, True), ("note", 2, True)]
)
def test_a_promotion_that_is_killed_is_settled_by_the_next(
    what: str, place: int, moved: bool, line: Path, challenged: None
) -> None:
    killed(line, what, place, "promote")
    assert aliases()["champion"] == (2 if moved else 1)
    report = promote(line)
    assert (report["decision"], report["champion"]) == ("stays" if moved else "promoted", 2)
    assert aliases() == {"champion": 2, "previous": 1}
    assert trail(line) == [("promote", None, 1), ("promote", 1, 2)]


@pytest.mark.parametrize(("what", "place", "moved"), [("set_alias", 1, False), ("note", 1, True)])
def test_a_rollback_that_is_killed_is_settled_by_the_next(
    what: str, place: int, moved: bool, line: Path, challenged: None
) -> None:
    promote(line)
    killed(line, what, place, "rollback")
    report = promote(line)
    if moved:
        assert (report["decision"], report["champion"]) == ("refused", 1)
        assert "is not newer than a person's choice" in report["says"]
    else:
        assert (report["decision"], report["champion"]) == ("stays", 2)
    assert aliases()["previous"] == (2 if moved else 1)
    assert trail(line) == [("promote", None, 1), ("promote", 1, 2)] + [("rollback", 2, 1)] * moved


TWICE = """
import sys, time
from pathlib import Path
from pipeline import params, promotion

line = Path(sys.argv[1])
Path(sys.argv[2]).touch()
while not (line / "go").exists():
    time.sleep(0.001)
print(promotion.promote(params.read(line / "params.yaml"), line)["decision"])
"""


def test_two_promotions_at_once_make_one_champion_and_one_entry(line: Path, store: str) -> None:
    publish(line)
    waiting = [line / "first", line / "second"]
    both = [
        subprocess.Popen(
            [sys.executable, "-c", TWICE, str(line), str(path)],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for path in waiting
    ]
    while not all(path.exists() for path in waiting):
        assert all(process.poll() is None for process in both)
        time.sleep(0.02)
    (line / "go").touch()
    said = sorted(process.communicate(timeout=120)[0].strip() for process in both)
    assert said == ["promoted", "stays"]
    assert aliases() == {"champion": 1, "challenger": 2}
    assert trail(line) == [("promote", None, 1)]


def test_with_manual_approval_the_champion_waits_for_a_word(line: Path, store: str) -> None:
    publish(line, promote=MANUAL)
    for _ in range(2):
        report = promote(line)
        assert (report["decision"], report["champion"], report["waits"]) == ("waits", None, 1)
        assert report["says"].startswith("parts version 1 (many) waits for a person's approval: loaded back")
    assert aliases() == {"challenger": 1}
    assert trail(line) == []
    report = promote(line, Answer(1, True, "anna", "looked at the worst errors"))
    assert (report["decision"], report["champion"], report["waits"]) == ("promoted", 1, None)
    assert aliases() == {"champion": 1, "challenger": 2}
    assert trail(line) == [("approve", None, 1), ("promote", None, 1)]
    given, moved = audit.Trail.open(line, tracking.connect(), "parts").entries
    assert (given.who, given.why) == ("anna", "looked at the worst errors")
    assert (moved.who, moved.why[-16:]) == (audit.whoami(), "approved by anna")
    assert promote(line)["decision"] == "stays"  # and nobody is asked


@pytest.mark.parametrize(
    ("who", "why", "said"),
    [
        ("anna", "too many escapes", "version 2 was not approved by anna: too many escapes"),
        ("", "nobody answered within 5 s", "version 2 was not approved: nobody answered within 5 s"),
    ],
)
def test_what_is_refused_leaves_the_champion(who: str, why: str, said: str, line: Path, kept: None) -> None:
    publish(line, candidates=MANY, promote=MANUAL)
    assert promote(line)["waits"] == 2
    report = promote(line, Answer(2, False, who, why))
    assert (report["decision"], report["champion"], report["waits"]) == ("refused", 1, None)
    assert report["says"] == f"no candidate of parts is promoted, version 1 stays champion; many: {said}"
    assert aliases() == {"champion": 1, "challenger": 2}
    assert trail(line) == [("promote", None, 1), ("refuse", 1, 2)]
    assert audit.Trail.open(line, tracking.connect(), "parts").entries[-1].who == (who or "nobody")


def test_an_approval_is_for_one_version_only(line: Path, store: str) -> None:
    publish(line, candidates=FEW, promote=MANUAL)
    assert promote(line)["waits"] == 1
    publish(line, promote=MANUAL)  # a better one comes while the person thinks
    report = promote(line, Answer(1, True, "anna", ""))
    assert (report["decision"], report["champion"]) == ("refused", None)
    assert "version 1 was approved by anna, but version 2 is the best by now" in report["says"]
    assert trail(line) == [("approve", None, 1)]
    assert aliases() == {"challenger": 2}


def test_a_champion_moved_by_hand_meanwhile_counts_more_than_an_approval(line: Path, store: str) -> None:
    publish(line, promote=MANUAL)
    assert promote(line)["waits"] == 1
    tracking.connect().set_alias("parts", "champion", 2)
    report = promote(line, Answer(1, True, "anna", ""))
    assert (report["decision"], report["champion"]) == ("stays", 2)
    assert trail(line) == [("moved by hand", None, 2), ("approve", 2, 1)]
