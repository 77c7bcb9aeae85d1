"""The benchmark of decisions measures what users get, and sees a promise that is broken; on made-up scores."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from benchmarks import decisions
from benchmarks.decisions import ScoreSet
from pipeline import threshold
from pipeline.plan import Plan
from pipeline.rules.conformal import Found, Known, order
from pipeline.rules.false_alarm_rate import FalseAlarmRate

RESAMPLES = 100


class Boastful(FalseAlarmRate):
    """Promises half of what it takes."""

    def find(self, known: Known, where: str) -> Found:
        return FalseAlarmRate(2 * self.alpha, None).find(known, where)


class OneTooMany(FalseAlarmRate):
    """Takes the order statistic below the right one."""

    def find(self, known: Known, where: str) -> Found:
        r = order(len(known.normals), self.alpha, self.confidence)
        return Found(float(known.normals[-r - 1]), self.alpha, "")


def score_set(name: str, decimals: int | None = None) -> ScoreSet:
    """Normals and anomalies of overlapping scores, with ties where they are rounded."""
    rng = np.random.default_rng(len(name))
    scores = [rng.normal(size=4_000), rng.normal(3, 1, 60)]
    rounded = [np.sort((x if decimals is None else x.round(decimals)).astype(np.float32)) for x in scores]
    return ScoreSet(name, "none", 0, *rounded)


@pytest.fixture(scope="module")
def sets() -> list[ScoreSet]:
    return [score_set("smooth"), score_set("tied", 1)]


@pytest.mark.parametrize("rule", [FalseAlarmRate(0.01), FalseAlarmRate(0.05), FalseAlarmRate(0.001, None)])
def test_thresholds_and_rates_are_those_that_users_get(rule: FalseAlarmRate, sets: list[ScoreSet]) -> None:
    for own in sets:
        known = decisions.drawn(own, 1_000, 5, seed=0)
        rates, detected = decisions.outcome(own, known, decisions.by_rule(rule))
        for one, rate, caught in zip(known, rates, detected, strict=True):
            shuffled = np.random.default_rng(1).permutation(one.normals)
            calibration = threshold.calibrate(Plan(rule), threshold.Scored(shuffled), "model")
            r = order(1_000, rule.alpha, rule.confidence)
            assert calibration.thresholds["alarm"] == decisions.by_rule(rule)(one) == np.sort(shuffled)[-r]
            assert rate == np.mean(calibration.decide(own.normals) == "reject")
            assert caught == np.mean(calibration.decide(own.anomalies) == "reject")


def test_resamples_are_drawn_from_the_set_and_repeat_under_their_seed(sets: list[ScoreSet]) -> None:
    first, again, other = (decisions.drawn(sets[1], 1_000, 3, seed) for seed in (0, 0, 1))
    assert all(np.array_equal(a.normals, b.normals) for a, b in zip(first, again, strict=True))
    assert not any(np.array_equal(a.normals, b.normals) for a, b in zip(first, other, strict=True))
    assert not any(np.array_equal(a.normals, b.normals) for a, b in pairwise(first))
    assert all(np.isin(one.normals, sets[1].normals).all() and len(one.normals) == 1_000 for one in first)
    assert {len(one.anomalies) for one in first} == {60}  # a tenth of the normals would be more than there are


@pytest.mark.parametrize("alpha", [0.001, 0.01, 0.05, 0.29])
def test_the_oracle_is_the_lowest_threshold_within_alpha(alpha: float, sets: list[ScoreSet]) -> None:
    for own in sets:
        kept = [t for t in np.unique(own.normals) if np.mean(own.normals > t) <= alpha]
        assert decisions.oracle(own.normals, alpha) == min(kept)
        lower = np.nextafter(np.float32(min(kept)), np.float32(-np.inf))
        assert np.mean(own.normals > lower) > alpha


def test_honest_promises_are_kept(sets: list[ScoreSet]) -> None:
    page, broken = decisions.report(sets, RESAMPLES, seed=0)
    assert broken == []
    assert page == decisions.report(sets, RESAMPLES, seed=0)[0]
    tables = {part.splitlines()[0]: part.splitlines()[6:] for part in page.split("## ")[1:]}
    assert list(tables) == list(decisions.SECTIONS)
    rows = [sum(row.startswith("|") for row in table) for table in tables.values()]
    assert rows == [6, 5, 6, 11, 5, 2]
    assert "| alpha 0.001, 1,000 normals |" not in "\n".join(tables[decisions.CONFIDENT])
    for how, cases in (("with 95% confidence", 10), ("on average", 12)):
        rows = [row for row in tables[decisions.ORACLE] if f"{how} |" in row]
        far = sum(row.count("**-") for row in rows)
        assert len(rows) * len(sets) == cases
        assert f" {how.capitalize()}, {far} of {cases} are more than 2 points below (bold)." in page


def test_a_rule_that_promises_too_much_is_named(sets: list[ScoreSet]) -> None:
    page, broken = decisions.report(sets, RESAMPLES, seed=0, rule=Boastful)
    for own in sets:
        assert any(said.startswith(f"{own.name}: alpha 0.05, 1,000 normals, with 95% confidence: ") for said in broken)
        assert any(said.startswith(f"{own.name}: alpha 0.05, 3,000 normals, on average: the mean") for said in broken)
    assert not any("false discoveries" in said for said in broken)
    assert "**100.0%**" in page


def test_a_single_order_statistic_too_many_is_seen(sets: list[ScoreSet]) -> None:
    _, broken = decisions.report(sets[:1], RESAMPLES, seed=0, rule=OneTooMany)
    assert any(said.startswith("smooth: alpha 0.001, 3,000 normals, with 95% confidence: ") for said in broken)
    assert any(said.startswith("smooth: alpha 0.001, 1,000 normals, on average: ") for said in broken)


def test_p_values_that_are_too_low_are_named(sets: list[ScoreSet], monkeypatch: pytest.MonkeyPatch) -> None:
    honest = threshold.p_values
    monkeypatch.setattr(threshold, "p_values", lambda known, scores: honest(known, scores) / 2)
    _, broken = decisions.report(sets[:1], RESAMPLES, seed=0)
    assert [said.split(": ")[1] for said in broken] == [
        "false discoveries at 0.1, 1,000 normals",
        "false discoveries at 0.1, 3,000 normals",
    ]


def test_what_is_too_slow_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    page, slow = decisions.speeds(1_000, seed=0)
    assert slow == []
    assert page.count("\n| ") == 3
    monkeypatch.setitem(decisions.SPEED, "p_values", 0.0)
    assert [said.split()[0] for said in decisions.speeds(1_000, seed=0)[1]] == ["p_values"]


@pytest.mark.parametrize(
    ("told", "code"), [([], None), (["smooth: alpha 0.01 is broken"], "smooth: alpha 0.01 is broken")]
)
def test_the_exit_status_says_whether_all_are_kept(
    told: list[str], code: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    asked = {}

    def report(sets: list[ScoreSet], resamples: int, seed: int) -> tuple[str, list[str]]:
        asked["resamples"] = resamples
        return "the tables\n", told

    def score_sets(data: Path, weights: Path | None, names: list[str], seed: int) -> list[ScoreSet]:
        asked["weights"], asked["names"] = weights, names
        return []

    monkeypatch.setattr(decisions, "report", report)
    monkeypatch.setattr(decisions, "score_sets", score_sets)
    monkeypatch.setattr(decisions, "speeds", lambda count, seed: ("", []))
    out = tmp_path / "page.md"
    monkeypatch.setattr("sys.argv", ["decisions", "--data", str(tmp_path), "--quick", "--out", str(out)])
    if code is None:
        decisions.main()
    else:
        with pytest.raises(SystemExit) as ended:
            decisions.main()
        assert ended.value.code == code  # a sentence: printed to stderr, status 1
    assert out.read_text() == capsys.readouterr().out
    assert ("All are kept." in out.read_text()) == (code is None)
    assert asked == {"resamples": 200, "weights": None, "names": [*decisions.TABLES, "kolektorsdd"]}
