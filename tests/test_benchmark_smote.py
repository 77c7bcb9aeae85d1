"""The repetition of the SMOTE paper's experiment runs, and its parts count what they say."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import smote
from benchmarks.smote import SMOTES, UNDER, Curves, auc, hull, kept, page, pessimistic, shares, smoted

ROOT = Path(__file__).parents[1]


def crowd(normals: int, anomalies: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = np.repeat([0, 1], [normals, anomalies]).astype(np.int8)
    return rng.normal(size=(len(y), 2)) + y[:, None], y


def test_runs_from_file_to_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    x, y = crowd(80, 20)
    np.savez(tmp_path / "29_Pima.npz", X=x, y=y)
    out = tmp_path / "out.jsonl"
    few = {"SMOTED": (50, 100), "SMOTES": ("SMOTE 50", "SMOTE 100"), "LEVELS": (10, 50, 100, 400)}
    for name, value in {**few, "PRIORS": (0.1, 1, 10), "FOLDS": 2}.items():
        monkeypatch.setattr(smote, name, value)
    monkeypatch.setattr(smote, "FAMILIES", (UNDER, "SMOTE 50", "SMOTE 100", "naive Bayes", "thresholds"))
    monkeypatch.setattr(sys, "argv", ["smote", "--data", str(tmp_path), "--out", str(out), "--repeats", "2"])
    smote.main()
    shown = capsys.readouterr().out
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert len(lines) == 2 * 5  # repeats, families
    assert {line["family"] for line in lines} == set(smote.FAMILIES)
    assert [line["at"] for line in lines if line["family"] == "naive Bayes"] == [
        [0.25, 1, 10]
    ] * 2  # from what is there
    under = next(line for line in lines if line["family"] == UNDER)
    assert (under["rows"], under["anomalies"], under["repeat"]) == (100, 20, 0)
    assert under["at"] == ["all", 50, 100, 400]  # 10 % would need 200 normals
    assert under["fp"][0] < under["fp"][-1]
    assert under["tp"][0] <= under["tp"][-1]
    assert "- **pima** (80 normals, 20 anomalies): (a) " in shown
    assert shown == page(lines)
    smote.main()
    assert capsys.readouterr().out == shown  # equal seeds, equal bytes
    monkeypatch.setattr(sys, "argv", ["smote", "--page", str(out)])
    smote.main()
    assert capsys.readouterr().out == shown


def test_says_which_files_it_needs(tmp_path: Path) -> None:
    given = [sys.executable, "-m", "benchmarks.smote", "--data", str(tmp_path)]
    done = subprocess.run(given, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 2
    assert "--data must hold one of 23_mammography.npz, 29_Pima.npz, 30_satellite.npz, got" in done.stderr


def test_the_page_of_results_is_that_of_the_results_kept() -> None:
    results = ROOT / "docs/results"
    lines = [json.loads(line) for line in (results / "smote.jsonl").read_text(encoding="utf-8").splitlines()]
    assert (results / "smote.md").read_text(encoding="utf-8") == page(lines), "run python -m benchmarks.smote --page"


def test_pessimistic_errors_are_those_of_the_binomial_distribution() -> None:
    found = pessimistic(np.array([0, 0, 0, 1]), np.array([1, 6, 9, 16])) / [1, 6, 9, 16]
    np.testing.assert_allclose(found[:3], 1 - 0.25 ** (1 / np.array([1, 6, 9])))  # none wrong: (1 - U)^N = 25 %
    u = found[3]
    np.testing.assert_allclose((1 - u) ** 16 + 16 * u * (1 - u) ** 15, 0.25)  # at most one wrong


def test_a_tree_keeps_what_it_learned_and_forgets_noise() -> None:
    x = np.arange(40.0)[:, None]
    step = (x[:, 0] >= 20).astype(np.int8)
    np.testing.assert_array_equal(shares(x, step, np.array([[3.0], [19.4], [19.6], [33.0]]), 0), [0, 0, 1, 1])
    odd = np.zeros(40, np.int8)
    odd[[5, 20, 30]] = 1  # one cut off each takes more leaves than it mends errors
    np.testing.assert_allclose(shares(x, odd, x, 0), 3 / 40)
    np.testing.assert_array_equal(shares(x, np.zeros(40, np.int8), x[:2], 0), [0, 0])


def test_normals_left_out_are_the_same_with_and_without_smote() -> None:
    x, y = crowd(80, 20)
    more_x, more_y = smoted(x, y, 150, 3)
    assert (more_y == 1).sum() == 50
    np.testing.assert_array_equal(more_x[:100], x)
    for rows, anomalies in ((kept(x, y, 16, 3), 20), (kept(more_x, more_y, 16, 3), 50)):
        assert ((rows[1] == 0).sum(), (rows[1] == 1).sum()) == (16, anomalies)
    np.testing.assert_array_equal(
        *(some[label == 0] for some, label in (kept(x, y, 16, 3), kept(more_x, more_y, 16, 3)))
    )
    assert len(kept(x, y, 99, 3)[0]) == 100  # there are no more


def test_area_and_hull_by_hand() -> None:
    curve = np.array([(0.5, 0.9), (0.1, 0.6)])
    assert auc(curve) == pytest.approx(0.1 * 0.3 + 0.4 * 0.75 + 0.5 * 0.95)
    assert auc(np.zeros((0, 2))) == 0.5
    cloud = np.array([(1, 8), (2, 10), (2, 9), (4, 14), (3, 1), (16, 16), (0, 0), (8, 14)]) / 16
    assert hull(cloud).tolist() == [0, 3]  # the second lies on the line between them
    assert hull(np.array([(0.4, 0.4), (0.6, 0.5)])).tolist() == []
    assert hull(np.array([(0.0, 0.3), (0.4, 1.0), (0.2, 0.5)])).tolist() == [0, 1]


def drawn(family: str, repeat: int, *points: tuple[float, float]) -> dict:
    fp, tp = zip(*points, strict=True)
    made = {"scikit-learn": "1", "imbalanced-learn": "1"}
    return {"set": "made up", "rows": 100, "anomalies": 20, "repeat": repeat, "family": family, "at": [], **made} | {
        "fp": list(fp),
        "tp": list(tp),
    }


def test_claims_are_judged_by_the_figures() -> None:
    lines = []
    for repeat in (0, 1):
        lines += [drawn(UNDER, repeat, (0.1, 0.5), (0.5, 0.8))]
        lines += [drawn(family, repeat, (0.2, 0.5), (0.5, 0.8)) for family in SMOTES[1:]]
        lines += [drawn(SMOTES[0], repeat, (0.2, 0.7 - 0.4 * repeat), (0.5, 0.9 - 0.1 * repeat))]
        lines += [drawn(other, repeat, (0.05, 0.1), (0.9, 0.91)) for other in ("naive Bayes", "thresholds")]
    one = Curves(lines)
    assert one.best == SMOTES[0]
    under = 0.1 * 0.25 + 0.4 * 0.65 + 0.5 * 0.9
    first = 0.1 * 0.25 + 0.1 * 0.6 + 0.3 * 0.8 + 0.5 * 0.95  # begins at the raw data's (0.1, 0.5)
    np.testing.assert_allclose(one.gain[SMOTES[0]][0], first - under)
    assert one.gain[SMOTES[0]][1] < 0
    counts, area = one.on_hull([UNDER, SMOTES[0]], repeat=0)
    assert counts == {UNDER: 1, SMOTES[0]: 2}
    assert area == pytest.approx(0.1 * 0.25 + 0.1 * 0.6 + 0.3 * 0.8 + 0.5 * 0.95)
    assert one.most(repeat=0)
    assert not one.most(repeat=1)
    assert "(a) does not hold (1 of 2 repeats). SMOTE 50 % has" in one.verdict()
    assert "(b) does not hold (1 of 2 repeats). SMOTE has" in one.verdict()
    assert "(a) holds (1 of 1 repeats)" in Curves([line for line in lines if line["repeat"] == 0]).verdict()
