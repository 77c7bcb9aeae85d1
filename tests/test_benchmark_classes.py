import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks import classes
from tests.test_anomaly_classes import pictures

KIND = np.array(["a"] * 4 + ["b"] * 4 + ["c"] * 2)


def test_what_is_reached_by_hand() -> None:
    found = np.array([2, 2, 2, 0, 0, 0, 0, -1, 1, 2])
    got = classes.reached(KIND, found)
    assert got["f1"] == pytest.approx(0.7)  # a: 3 of 2, b: 3 of 0, c: 1 of 1; the image without a class is wrong
    perfect = classes.reached(KIND, np.array([1] * 4 + [2] * 4 + [0] * 2))
    assert perfect == pytest.approx({"f1": 1.0, "nmi": 1.0, "ari": 1.0})
    assert classes.reached(KIND, np.full(10, -1)) == {"f1": 0.0, "nmi": 0.0, "ari": 0.0}


def test_images_without_a_class_gain_neither_as_one_cluster_nor_one_by_one() -> None:
    """Kinds a, a, a, b, b, c. Of pairs four are alike in kind; mutual information is of nats."""
    kind = np.array(["a", "a", "a", "b", "b", "c"])
    of_kinds = np.log(2) / 2 + np.log(3) / 3 + np.log(6) / 6
    mixed = classes.reached(kind, np.array([0, 0, -1, 1, 1, -1]))  # as one: clusters of two; a is split, c is not alone
    shared = of_kinds - np.log(2) / 3
    assert mixed["nmi"] == pytest.approx(2 * shared / (of_kinds + np.log(3)))
    assert mixed["ari"] == pytest.approx((2 - 4 * 3 / 15) / ((4 + 3) / 2 - 4 * 3 / 15))
    alike = classes.reached(kind, np.array([-1, -1, -1, 1, 1, 0]))  # one by one: of four alike one pair is together
    apart = np.log(6) * 4 / 6 + np.log(3) / 3
    assert alike["nmi"] == pytest.approx(2 * of_kinds / (of_kinds + apart))
    assert alike["ari"] == pytest.approx((1 - 4 * 1 / 15) / ((4 + 1) / 2 - 4 * 1 / 15))


def test_k_means_looks_at_all_features_alike() -> None:
    rng = np.random.default_rng(0)
    vectors = np.c_[np.repeat([0.0, 0.01], 20) + rng.normal(0, 1e-4, 40), rng.normal(0, 100, 40)]
    kind = np.repeat(["a", "b"], 20)
    assert classes.reached(kind, classes.k_means(vectors, 2, 0))["f1"] == 1.0


def test_the_table_has_means_spreads_and_gains() -> None:
    plain = {"images": 10, "without": 0}
    lines = [
        {"method": "k-means, whole image", "f1": 0.3, "nmi": 0.1, "ari": 0.1, **plain},
        {"method": "k-means, region", "f1": 0.2, "nmi": 0.2, "ari": 0.0, **plain},
        {"method": "AnomalyNCD", "f1": 0.4, "nmi": 0.3, "ari": 0.2, **plain},
        {"method": "AnomalyNCD", "f1": 0.5, "nmi": 0.3, "ari": 0.2, **plain, "without": 2},
    ]
    table = classes.table(lines)
    assert "| AnomalyNCD | 45.0 ± 5.0 | 30.0 ± 0.0 | 20.0 ± 0.0 | 1 of 10 |" in table
    assert "| gain over the best k-means above | +15.0 | +10.0 | +10.0 | |" in table
    assert "| gain over k-means, whole image | +15.0 | +20.0 | +10.0 | |" in table
    assert "| the paper's gain over the best other, on MTD | +12.8 | +5.7 | +10.8 | |" in table


def test_a_small_set_is_measured_and_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").mkdir()
    pictures(tmp_path / "data")
    split = tmp_path / "split.csv"
    rows = pd.read_csv(tmp_path / "data/manifest.csv", keep_default_na=False)
    rows.assign(path="set/" + rows["path"]).to_csv(split, index=False)
    folder = tmp_path / "all"
    folder.mkdir()
    (folder / "set").symlink_to(tmp_path / "data")
    words = ["--data", str(folder), "--split", str(split), "--size", "48x48", "--seeds", "1", "--normals", "10"]
    words += [
        "--options",
        "{steps: 40, views: 2, crop: 32, thresholds: 16, coreset: 0.05}",
        "--out",
        str(tmp_path / "a.md"),
    ]
    monkeypatch.setattr(sys, "argv", ["classes", *words])
    classes.main()
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert {line["method"] for line in lines} == {
        *classes.OFF,
        "k-means, whole image",
        "k-means, region",
        "k-means, region under its mask",
    }
    assert all(line["images"] == 8 and line["classes"] == 2 for line in lines)
    page = (tmp_path / "a.md").read_text(encoding="utf-8")
    assert "python -m benchmarks.classes --data" in page
    assert "| gain over the best k-means above |" in page
