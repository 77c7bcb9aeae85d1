"""Labels given back: files as people write them, joined with what was decided, kept in SQL, made part of the data."""

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import hypergeom
from sqlalchemy import select

from pipeline import database, feedback, label_files, label_quality, labelled, split
from pipeline.errors import DataError
from pipeline.files import sha256
from pipeline.label_quality import Stratum
from pipeline.modalities.image import Image
from pipeline.modalities.table import Table
from pipeline.params import Split
from pipeline.protocols import Modality
from pipeline.samples import normals, read_manifest
from tests import small_line
from tests.pictures import stripes
from tests.scored import images, scored


def rows_of(line: Path, name: str, seed: int, n: int = 6) -> Path:
    """A table of n rows to score, ids 0 to n - 1."""
    path = line / f"{name}.csv"
    path.parent.mkdir(exist_ok=True)
    small_line.table(n, 0, seed).drop(columns="label").to_csv(path, index=False)
    return path


DECISIONS = ["reject", "reject", "review", "accept", "accept", "accept"]


@pytest.fixture
def plant(tmp_path: Path, database: str) -> Path:
    """A line that has scored one batch `night` of six rows: 0 and 1 are alarms, 2 is for review."""
    line = tmp_path / "plant"
    scored(line, "night", Table(), rows_of(line, "night", 5), DECISIONS)
    return line


def give(line: Path, text: str | bytes, name: str = "labels.csv") -> feedback.Given:
    path = line / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return feedback.give(line, str(path))


def stored(table: object = feedback.LABELS) -> list[dict]:
    with database.transaction() as connection:
        return [dict(row) for row in connection.execute(select(table).order_by(*table.c)).mappings()]


def reasons(given: feedback.Given) -> dict[int, str]:
    return dict(zip(given.refused["row"], given.refused["reason"], strict=True))


def test_labels_are_kept_beside_what_was_decided(plant: Path) -> None:
    given = give(plant, "id,label,who,defect,time\n1,bad,Eva,scratch,2026-01-02T06:00:00+01:00\n3,OK,,,\n")
    assert (given.new, given.changed, given.same, given.older, len(given.refused)) == (2, 0, 0, 0, 0)
    first, second = stored()
    assert first == {
        **{"name": "parts", "batch": "night", "id": "1", "label": 1, "defect": "scratch", "who": "Eva"},
        **{"given_at": "2026-01-02T05:00:00.000000Z", "decision": "reject", "score": 1.0, "version": 1},
    }
    assert (second["id"], second["label"], second["decision"]) == ("3", 0, "accept")
    assert not (plant / feedback.REFUSED).exists()


@pytest.mark.parametrize(
    "text",
    [
        b"\xef\xbb\xbfid;label;defect\r\n\r\n0;gut und;x\r\n1; BAD ;Kratzer\r\n;;\r\n",
        "\ufeffID\tLabel\tdefect\n\n1\tDefect\tKratzer\n".encode("utf-16-le"),
        b"label,comment,defect,id\n1.0,seen twice,Kratzer,1\n,,,\n",
        "id;label;defect;who\n1;ng;Kratzer;Jörg\n".encode("cp1252"),
    ],
    ids=["mark-semicolons-blank-lines", "utf-16-tabs", "other-columns", "windows"],
)
def test_files_as_spreadsheets_write_them(plant: Path, text: bytes) -> None:
    given = give(plant, text)
    (row,) = stored()
    assert (row["id"], row["label"], row["defect"]) == ("1", 1, "Kratzer")
    assert row["who"] in ("", "Jörg")
    assert set(reasons(given)) <= {1}


def test_parquet_and_sql_are_files_of_labels_too(plant: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pd.DataFrame({"id": [1.0, np.nan], "label": [True, None]}).to_parquet(plant / "labels.parquet")
    assert feedback.give(plant, str(plant / "labels.parquet")).new == 1
    with sqlite3.connect(plant / "inspection.db") as connection:
        connection.execute("CREATE TABLE inspection (part INT, verdict TEXT)")
        connection.execute("INSERT INTO inspection VALUES (1, 'bad'), (4, 'good')")
    connection.close()
    monkeypatch.setenv("ASSAY_SQL_URL", f"sqlite:///{plant}/inspection.db")
    given = feedback.give(plant, "sql:SELECT part AS id, verdict AS label FROM inspection ORDER BY part")
    assert (given.new, given.same) == (1, 1)
    assert [row["label"] for row in stored()] == [1, 0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "labels.csv must hold the columns id and label, it is empty"),
        ("\n ; \n", "labels.csv must hold the columns id and label, it is empty"),
        ("id,label\n", "labels.csv must hold at least one row, got none"),
        ("id,verdict\n1,0\n", "labels.csv must have the columns id and label, got id, verdict"),
        ("id,label,bacth\n1,0,night\n", "labels.csv has a column 'bacth', did you mean batch?"),
    ],
)
def test_a_file_that_is_none_changes_nothing(plant: Path, text: str, said: str) -> None:
    with pytest.raises(DataError, match=said.replace("?", r"\?")):
        give(plant, text)
    assert stored() == []


def test_each_bad_row_is_refused_with_its_reason_and_the_others_count(plant: Path) -> None:
    text = "id,label,batch,defect,time\n" + "\n".join(
        [
            "99,1,,,",
            "1,maybe,,,",
            "1,,,,",
            ",1,,,",
            "1,1,day,,",
            "3,0,,scratch,",
            "1,1,,,yesterday",
            "0,1,night,dent,",
            "4,0,,good",
            "2,0,,,",
        ]
    )
    given = give(plant, text)
    assert [row["id"] for row in stored()] == ["0", "2"]
    assert reasons(given) == {
        1: "id must be that of a sample scored in this line, got '99'",
        2: "label must be 0 or good, 1 or bad, got 'maybe'",
        3: "label must be 0 or good, 1 or bad, got ''",
        4: "id must be the id of a scored sample, got ''",
        5: "batch must be one that the line has scored, got 'day'",
        6: "defect must be empty where the label is good, got 'scratch'",
        7: "time must be a date and time such as 2026-01-31T12:00:00, got 'yesterday'",
        9: "must have 5 fields, got 4",
    }
    told = pd.read_csv(plant / feedback.REFUSED, dtype=str, keep_default_na=False)
    assert told.columns.tolist() == ["row", "id", "label", "reason"]
    assert told["id"].tolist() == ["99", "1", "1", "", "1", "3", "1", ""]
    give(plant, "id,label\n2,0\n")
    assert not (plant / feedback.REFUSED).exists()


def test_one_id_with_two_labels_is_refused_unless_times_tell_the_later(plant: Path) -> None:
    day = "2026-01-0"
    given = give(
        plant,
        f"id,label,time\n0,0,{day}3\n0,1,{day}2\n1,0,\n1,1,{day}2\n2,1,{day}2\n2,0,{day}2\n3,0,\n3,0,\n4,1,{day}4\n",
    )
    assert {row["id"]: row["label"] for row in stored()} == {"0": 0, "3": 0, "4": 1}
    assert sorted(reasons(given)) == [3, 4, 5, 6]
    assert (
        reasons(given)[3] == "labels of one sample contradict each other (0 in row 3, 1 in row 4): give each its time"
    )


def test_a_label_given_again_replaces_the_old_one_which_is_kept(plant: Path) -> None:
    give(plant, "id,label,defect,time\n1,bad,scratch,2026-01-05\n")
    assert give(plant, "id,label\n1,1\n").same == 1  # no defect takes none away
    assert stored(feedback.BEFORE) == []
    assert give(plant, "id,label,time\n1,good,2026-01-04\n").older == 1
    assert give(plant, "id,label,time\n1,good,2026-01-06\n").changed == 1
    assert give(plant, "id,label,time\n1,bad,2026-01-07\n").changed == 1
    (now,) = stored()
    assert (now["label"], now["given_at"][:10], now["defect"]) == (1, "2026-01-07", "")
    before = [(row["replaced"], row["label"], row["defect"], row["given_at"][:10]) for row in stored(feedback.BEFORE)]
    assert sorted(before) == [(1, 1, "scratch", "2026-01-05"), (2, 0, "", "2026-01-06")]


def test_an_id_of_several_batches_needs_the_batch_unless_the_content_is_the_same(plant: Path) -> None:
    scored(plant, "day", Table(), rows_of(plant, "day", 6), DECISIONS)
    scored(plant, "night-v2", Table(), plant / "night.csv", DECISIONS[::-1], data="night", version=2)
    given = give(plant, "id,label,batch\n1,1,\n2,1,day\n")
    assert reasons(given) == {1: "id is in 3 batches that differ (day, night, night-v2): name one in a column batch"}
    assert [(row["batch"], row["id"]) for row in stored()] == [("day", "2")]
    (plant / "scores/day/report.json").unlink()  # as if it had never been scored
    given = give(plant, "id,label\n1,1\n")
    assert [(row["batch"], row["decision"]) for row in stored()[1:]] == [("night", "reject"), ("night-v2", "accept")]
    added = labelled.add(plant, Table(), given.kept)
    assert (added.new, added.changed) == (1, 0)  # one content


def test_labels_are_kept_in_postgresql_as_well(
    plant: Path, postgres: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASSAY_DATABASE_URL", postgres())
    give(plant, "id,label\n1,1\n3,0\n")
    assert give(plant, "id,label\n1,0\n3,0\n").changed == 1
    assert [(row["id"], row["label"]) for row in stored()] == [("1", 0), ("3", 0)]
    assert len(stored(feedback.BEFORE)) == 1
    assert feedback.quality("parts")["labelled_alarms"].tolist() == [1]


def test_precision_and_recall_by_hand(plant: Path) -> None:
    day = rows_of(plant, "day", 6, n=20)
    scored(plant, "day", Table(), day, ["reject"] * 4 + ["accept"] * 16, started="2026-01-02T00:00:00+00:00")
    give(plant, "id,label,batch\n0,1,night\n1,0,night\n")
    found = feedback.quality("parts").iloc[0]
    assert (found["alarms"], found["labelled_alarms"], found["true_alarms"], found["precision"]) == (2, 2, 1, 0.5)
    assert np.isnan(found["recall"])  # nobody looked at an accepted sample
    give(plant, "id,label,batch\n0,1,day\n1,1,day\n4,0,day\n5,1,day\n6,0,day\n7,0,day\n")
    rows = feedback.quality("parts")
    assert rows["batch"].tolist() == ["night", "day"]
    second = rows.iloc[1]
    # 4 alarms, 2 labelled, both true: 4. 16 accepted, 4 labelled, 1 of them bad: 4.
    assert second["recall"] == 0.5
    assert second["precision"] == 1.0
    assert (second["cumulated_alarms"], second["cumulated_labelled_alarms"], second["cumulated_precision"]) == (
        6,
        4,
        0.75,
    )
    assert np.isnan(second["cumulated_recall"])  # the sample for review has no label
    give(plant, "id,label,batch\n2,0,night\n3,0,night\n")
    # 6 alarms at 3/4, 1 for review at 0, 19 accepted at 1/5
    assert feedback.quality("parts").iloc[1]["cumulated_recall"] == pytest.approx(4.5 / (4.5 + 3.8))
    assert feedback.quality("parts", version=2).empty
    assert feedback.quality("another").columns.tolist() == rows.columns.tolist()


def test_clopper_and_pearson_in_closed_form() -> None:
    none, some, all_of_them = (label_quality.precision(Stratum(50, 10, k)) for k in (0, 3, 10))
    assert (none.low, none.high) == (0.0, pytest.approx(1 - 0.025 ** (1 / 10)))
    assert (all_of_them.low, all_of_them.high) == (pytest.approx(0.025 ** (1 / 10)), 1.0)
    assert (some.low, some.high) == (pytest.approx(0.06674, abs=1e-5), pytest.approx(0.65245, abs=1e-5))
    assert label_quality.precision(Stratum(50, 0, 0)) is None


def test_bounds_of_a_total_hold_as_often_as_they_say() -> None:
    """Every total of anomalies among 40 samples of which 12 are labelled, by enumeration of all outcomes."""
    bounds = [label_quality.total(Stratum(40, 12, k), 0.95) for k in range(13)]
    for truth in range(41):
        inside = [low <= truth <= high for low, high in bounds]
        assert hypergeom.pmf(np.arange(13), 40, truth, 12) @ inside >= 0.95
    assert label_quality.total(Stratum(40, 40, 7), 0.95) == (7, 7)


def test_recall_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    hit = 0
    for _ in range(200):
        strata = {
            name: Stratum(n, m, int(rng.hypergeometric(k, n - k, m)))
            for name, n, k, m in (("reject", 60, 40, 30), ("review", 50, 10, 25), ("accept", 1000, 20, 200))
        }
        found = label_quality.recall(strata)
        hit += found.low <= 40 / 70 <= found.high
        assert found.low <= found.value <= found.high
    assert hit >= 190


def ingested(line: Path, modality: Modality, source: Path) -> tuple[pd.DataFrame, labelled.Joined]:
    """The manifest of the line's dataset with all labels that came back, as the stage `ingest` makes it."""
    number = len(list(line.glob("dataset-*")))
    dataset, quarantine = line / f"dataset-{number}", line / f"quarantine-{number}"
    dataset.mkdir()
    quarantine.mkdir()
    own = modality.ingest(source, dataset, quarantine).manifest
    joined = labelled.join(modality, own, line / labelled.SAMPLES, dataset, line / f"work-{number}")
    return read_manifest(dataset), joined


def test_labelled_rows_stand_beside_the_source_and_train_only(plant: Path) -> None:
    source = plant / "source.csv"
    small_line.table(40, 10, 0).to_csv(source, index=False)
    before, _ = ingested(plant, Table(), source)
    labelled.add(plant, Table(), give(plant, "id,label,defect\n0,0,\n1,1,dent\n3,0,\n").kept)
    rows, joined = ingested(plant, Table(), source)
    assert joined == labelled.Joined(added=3)
    back = rows[rows["id"].str.startswith("labelled/")]
    assert back[["id", "label", "defect"]].to_numpy().tolist() == [
        ["labelled/night/0", 0, ""],
        ["labelled/night/1", 1, "dent"],
        ["labelled/night/3", 0, ""],
    ]
    assert rows.columns.tolist() == before.columns.tolist()
    parts = split.assign(rows, Split()).set_index("id")["part"]
    assert set(parts[back["id"]]) == {"train"}
    pd.testing.assert_series_equal(
        parts[before["id"].sort_values()], split.assign(before, Split()).set_index("id")["part"]
    )
    checked, _ = Table().checks(plant / "dataset-1")
    assert checked["id"].tolist() == rows["id"].tolist()
    night = pd.read_csv(plant / "night.csv").set_index("id")
    (batch,) = Table().samples(rows.reset_index(drop=True)).batches(100)
    np.testing.assert_array_equal(batch.x.loc["labelled/night/3"], night.loc[3].to_numpy())
    np.testing.assert_array_equal(batch.x.loc[before["id"]], pd.read_csv(source)[list("abcd")].to_numpy())


def test_the_same_labels_twice_change_nothing_and_a_new_label_one_manifest(plant: Path) -> None:
    text = "id,label,defect\n0,0,\n1,1,dent\n"
    labelled.add(plant, Table(), give(plant, text).kept)
    before = sha256(plant / labelled.SAMPLES)
    assert labelled.add(plant, Table(), give(plant, text).kept) == labelled.Added(0, 0)
    assert sha256(plant / labelled.SAMPLES) == before
    assert labelled.add(plant, Table(), give(plant, "id,label,defect\n0,1,hole\n4,0,\n").kept) == labelled.Added(1, 1)
    manifests = [read_manifest(path.parent) for path in sorted((plant / labelled.SAMPLES).glob("*/*/manifest.parquet"))]
    rows = pd.concat(manifests).set_index("id")
    assert rows[["label", "defect"]].to_dict("index") == {
        "0": {"label": 1, "defect": "hole"},
        "1": {"label": 1, "defect": "dent"},
        "4": {"label": 0, "defect": ""},
    }
    kept = pd.read_parquet(plant / "scores/night/samples/00000/manifest.parquet")
    assert set(kept["label"]) == {-1}  # what was scored stays as it was
    assert len(pd.read_parquet(plant / "scores/night/samples/00000/table.parquet")) == 6


def test_samples_that_were_not_kept_count_for_precision_only(plant: Path) -> None:
    scored(plant, "lean", Table(), rows_of(plant, "lean", 9), DECISIONS, keep=False)
    given = give(plant, "id,label,batch\n0,1,lean\n1,1,night\n")
    assert given.kept["batch"].tolist() == ["night"]
    assert feedback.quality("parts")["labelled_alarms"].tolist() == [1, 1]


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_an_interrupted_copy_is_finished_by_the_same_labels(plant: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = give(plant, "id,label\n0,0\n1,1\n")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", _interrupted)
        with pytest.raises(KeyboardInterrupt):
            labelled.add(plant, Table(), given.kept)
    assert not list((plant / labelled.SAMPLES).rglob("*.parquet"))
    again = give(plant, "id,label\n0,0\n1,1\n")
    assert (again.same, labelled.add(plant, Table(), again.kept).new) == (2, 2)


def with_label(path: Path, label: list) -> Path:
    """The rows of a scored batch as a source of their own, with further rows of other content, and labels."""
    more = small_line.table(len(label) - 6, 0, 77).drop(columns="label").assign(id=lambda f: f["id"] + 100)
    rows = pd.concat([pd.read_csv(path), more], ignore_index=True).assign(label=label)
    out = path.with_name("source.csv")
    rows.to_csv(out, index=False)
    return out


def test_a_content_that_the_source_has_does_not_come_twice(plant: Path) -> None:
    """The source holds the batch's rows: 0 is normal there, 1 anomalous, 2 and 3 of unknown label."""
    source = with_label(plant / "night.csv", [0, 1, None, None, 0, 0] + [0] * 20)
    labelled.add(plant, Table(), give(plant, "id,label\n0,1\n1,1\n2,1\n3,0\n").kept)
    rows, joined = ingested(plant, Table(), source)
    assert (joined.added, joined.known, joined.contradicted) == (2, 2, 1)
    assert rows["sha256"].is_unique
    told = rows.set_index("id")["label"]
    assert (told["0"], told["1"], told["labelled/night/2"], told["labelled/night/3"]) == (0, 1, 1, 0)
    assert not {"2", "3"} & set(rows["id"])


def test_normals_given_back_do_not_unseat_unlabelled_ones_that_stand_for_normal(plant: Path) -> None:
    """In a source without a normal label, an alarm found to be normal must not leave calibration, nor make the others
    unused; an anomaly must leave."""
    source = with_label(plant / "night.csv", [None] * 26)
    scored(plant, "day", Table(), rows_of(plant, "day", 8), DECISIONS)
    labelled.add(plant, Table(), give(plant, "id,label,batch\n0,0,night\n1,1,night\n0,0,day\n1,1,day\n").kept)
    rows, joined = ingested(plant, Table(), source)
    assert (joined.added, joined.known) == (3, 1)
    told = rows.set_index("id")["label"]
    assert (told["0"], told["labelled/day/0"], told["labelled/day/1"], told["labelled/night/1"]) == (-1, -1, 1, 1)
    assert "1" not in told
    parts = split.assign(rows, Split(calibrate=0.2, test=0.2)).merge(rows, on="id")
    assert parts["part"].value_counts().to_dict() == {"train": 18, "calibrate": 5, "test": 5}
    train = Table().samples(parts[parts["part"] == "train"].reset_index(drop=True))
    assert "labelled/day/0" in normals(train).ids


def test_a_labelled_sample_of_a_calibrated_or_tested_group_is_unused(plant: Path) -> None:
    rows = pd.DataFrame(
        {
            "id": [f"s{i:02d}" for i in range(30)] + [f"labelled/n/{i}" for i in range(32)],
            "sha256": [f"c{i}" for i in range(62)],
            "label": [0] * 60 + [1, 0],
            "group": [f"g{i // 3}" for i in range(30)] + [f"g{i // 3}" for i in range(30)] + ["g9", ""],
            "split": [""] * 30 + ["labelled"] * 32,
            **dict.fromkeys(("defect", "category", "severity", "time")),
        }
    )
    found = split.assign(rows, Split(calibrate=0.3, test=0.3)).merge(rows, on="id")
    own, back = found[found["split"] == ""], found[found["split"] == "labelled"]
    of = own.groupby("group")["part"].first()
    expected = back["group"].map(of).map({"train": "train"}).fillna("unused")
    expected[back["group"] == ""] = "train"
    assert back["part"].tolist() == expected.tolist()
    assert set(back["part"]) == {"train", "unused"}
    assert found[found["part"].isin(["calibrate", "test"])]["split"].eq("").all()
    alone = split.assign(rows[rows["split"] == ""], Split(calibrate=0.3, test=0.3))
    assert own[["id", "part"]].to_numpy().tolist() == alone.to_numpy().tolist()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda f: f.drop(columns="d"), "'d' is not in all of them"),
        (lambda f: f.assign(e=1.0), "'e' is not in all of them"),
        (
            lambda f: f.assign(d=[True, False] * 3),
            "column 'd' must hold values of one kind in both, got boolean and number",
        ),
        (lambda f: f.assign(d=["x", "y"] * 3), "column 'd' must hold values of one kind in both, got number and text"),
    ],
    ids=["missing", "extra", "boolean", "text"],
)
def test_samples_that_do_not_go_with_the_source_are_left_out_and_named(
    plant: Path, change: Callable[[pd.DataFrame], pd.DataFrame], why: str
) -> None:
    change(pd.read_csv(rows_of(plant, "odd", 3))).to_csv(plant / "odd.csv", index=False)
    scored(plant, "odd", Table(), plant / "odd.csv", DECISIONS)
    labelled.add(plant, Table(), give(plant, "id,label,batch\n0,0,odd\n0,0,night\n").kept)
    small_line.table(40, 10, 0).to_csv(plant / "source.csv", index=False)
    rows, joined = ingested(plant, Table(), plant / "source.csv")
    assert joined.added == 1
    assert [sentence.partition(":")[0].split("/")[0] for sentence in joined.unfit] == ["odd"]
    assert why in joined.unfit[0]
    assert not rows["id"].str.startswith("labelled/odd").any()


def test_labelled_images_are_linked_not_copied(tmp_path: Path, database: str) -> None:
    line, modality = tmp_path / "camera", Image(size=(48, 48))
    images(line / "raw/good", 8, 0)
    scored(line, "night", modality, images(line / "night/shift", 6, 1), DECISIONS)
    given = give(line, "id;label\n0.png;good\n1.png;bad\n")
    assert labelled.add(line, modality, given.kept).new == 2
    rows, joined = ingested(line, modality, line / "raw")
    assert joined.added == 2
    back = rows[rows["id"].str.startswith("labelled/")]
    assert back["label"].tolist() == [0, 1]
    for row, name in zip(back.itertuples(), ("0.png", "1.png"), strict=True):
        assert os.path.samefile(Path(row.folder, row.path), line / "night/shift" / name)
    checked, _ = modality.checks(line / "dataset-0")
    assert checked["id"].tolist() == rows["id"].tolist()
    (batch,) = modality.samples(rows).batches(20)
    np.testing.assert_array_equal(batch.x[-2:], stripes(6, 1)[:2])
    assert len(list((line / labelled.SAMPLES).rglob("*.png"))) == 2
    (line / "night/shift/1.png").write_bytes(b"overwritten in place, through the link")
    rows, joined = ingested(line, modality, line / "raw")
    assert joined.added == 0
    assert "has changed since it was ingested" in joined.unfit[0]


def test_an_image_that_is_gone_since_it_was_scored_keeps_no_other_from_training(tmp_path: Path, database: str) -> None:
    line, modality = tmp_path / "camera", Image(size=(48, 48))
    scored(line, "night", modality, images(line / "night/shift", 6, 1), DECISIONS)
    for name in ("1.png", "5.png"):  # one that is labelled and one that is not
        (line / "scores/night/samples/00000/images" / name).unlink()
    given = give(line, "id;label\n0.png;good\n1.png;bad\n")
    assert labelled.add(line, modality, given.kept) == labelled.Added(new=1, changed=0, gone=1)
    assert [path.name for path in (line / labelled.SAMPLES).rglob("*.png")] == ["0.png"]
    again = give(line, "id;label\n1.png;bad\n")
    assert labelled.add(line, modality, again.kept) == labelled.Added(gone=1)


def test_words_and_columns_are_those_of_the_docs() -> None:
    text = (Path(__file__).parents[1] / "docs/labels.md").read_text(encoding="utf-8")
    assert all(f"`{word}`" in text for word in [*label_files.WORDS, *label_files.COLUMNS])
