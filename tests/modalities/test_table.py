import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline import checks
from pipeline.detectors.table.isolation_forest import IsolationForest
from pipeline.errors import DataError
from pipeline.files import sha256
from pipeline.modalities.table import Table
from pipeline.parts.columns import MOST_TEXTS, Columns
from pipeline.parts.table_checks import gives_away, identifies
from pipeline.parts.table_types import feature
from pipeline.protocols import MANIFEST, Batch, Ingested, Scores
from pipeline.samples import read_manifest

SHARED = Path(__file__).parents[2] / "../shared/data/tabular"


@dataclass
class Read:
    """What ingest made of a source, and where."""

    found: Ingested
    out: Path
    quarantine: Path

    @property
    def table(self) -> pd.DataFrame:
        return pd.read_parquet(self.out / "table.parquet")


def read(source: Path, table: Table, work: Path) -> Read:
    out, quarantine = work / "dataset", work / "quarantine"
    for folder in (out, quarantine):
        folder.mkdir(parents=True)
    return Read(table.ingest(source, out, quarantine), out, quarantine)


@pytest.fixture
def csv(tmp_path: Path):
    """Ingests the text of a CSV file."""
    count = iter(range(100))

    def ingest(text: str, table: Table | None = None) -> Read:
        work = tmp_path / str(next(count))
        work.mkdir()
        (work / "t.csv").write_text(text, encoding="utf-8")
        return read(work / "t.csv", table or Table(), work)

    return ingest


TEXT = """id,label,a,n,on,kind
p1,0,1.5,1,true,red
p2,1,,2,false,blue
p3,,-2e3,3,TRUE,
"""


def test_csv_by_hand(csv) -> None:
    got = csv(TEXT)
    manifest = got.found.manifest
    assert tuple(manifest.columns) == (*MANIFEST, "row")
    assert manifest["id"].tolist() == ["p1", "p2", "p3"]
    assert manifest["label"].tolist() == [0, 1, -1]
    assert manifest["row"].tolist() == [0, 1, 2]
    assert len(got.found.rejected) == 0
    expected = pd.DataFrame(
        {
            "a": [1.5, np.nan, -2000.0],
            "n": [1, 2, 3],
            "on": [True, False, True],
            "kind": pd.Categorical(["red", "blue", None], categories=["blue", "red"]),
        }
    )
    pd.testing.assert_frame_equal(got.table, expected, check_categorical=False)
    assert got.table["kind"].astype(object).tolist()[:2] == ["red", "blue"]


def test_every_annotation_finds_its_place(csv) -> None:
    text = "y,part,who,what,how,bad,when,x\nok,train,g1,c1,d1,0.5,2024-01-02T03:04:05,1\nnok,test,g2,c2,,,86400,2\n"
    table = Table("y", ["nok"], None, "how", "who", "what", "bad", "when", "part")
    rows = csv(text, table).found.manifest
    assert rows["label"].tolist() == [0, 1]
    assert rows[["split", "group", "category", "defect"]].to_numpy().tolist() == [
        ["train", "g1", "c1", "d1"],
        ["test", "g2", "c2", ""],
    ]
    assert rows["severity"].iloc[0] == 0.5
    assert np.isnan(rows["severity"].iloc[1])
    assert rows["time"].tolist() == [pd.Timestamp("2024-01-02T03:04:05Z"), pd.Timestamp("1970-01-02T00:00:00Z")]
    assert rows["id"].tolist() == ["row-0000001", "row-0000002"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("p9,0,oops,1,true,red", "column 'a' must hold numbers, got 'oops' (row 4)"),
        ("p9,0,inf,1,true,red", "column 'a' must hold finite numbers, got 'inf' (row 4)"),
        ("p9,0,1e999,1,true,red", "column 'a' must hold finite numbers, got '1e999' (row 4)"),
        (
            "p9,2,1,1,true,red",
            "column 'label' must hold 0, 1 or -1, or values that dataset.anomalous explains, got '2'",
        ),
        (
            "p9,bad,1,1,true,red",
            "column 'label' must hold 0, 1 or -1, or values that dataset.anomalous explains, got 'b",
        ),
        ("p9,0,1,1", "must have 6 fields, got 4 (row 4)"),
        ("p9,0,1,1,true,red,7", "must have 6 fields, got 7 (row 4)"),
        ("p2,0,1,1,true,red", "column 'id' must hold unique ids, got 'p2' again (row 4)"),
        (",0,1,1,true,red", "column 'id' must hold an id in every row, got '' (row 4)"),
    ],
)
def test_rows_that_cannot_be_used_are_quarantined(csv, line: str, reason: str) -> None:
    got = csv(TEXT + line + "\np5,0,1,1,true,red\n")
    assert got.found.manifest["id"].tolist() == ["p1", "p2", "p3", "p5"]
    assert got.found.rejected["reason"].tolist()[0].startswith(reason)
    kept = pd.read_csv(got.quarantine / "rejected.csv", keep_default_na=False)
    assert list(kept.columns) == ["id", "path", "reason", "raw"]
    assert kept["path"].tolist() == ["t.csv"]
    assert all(value in kept["raw"].iloc[0] for value in line.split(",") if value)
    pd.testing.assert_frame_equal(pd.read_parquet(got.quarantine / "rejected.parquet"), kept, check_dtype=False)
    assert got.table["a"].tolist()[-1] == 1.0


def test_each_row_after_a_broken_one_keeps_its_number(csv) -> None:
    got = csv("label,a,b\n0,1,1\n0,2\n0,x,3\n\n0,4,4\n0,5,5\n")
    assert got.found.manifest["id"].tolist() == ["row-0000001", "row-0000004", "row-0000005"]
    assert sorted(got.found.rejected["id"]) == ["row-0000002", "row-0000003"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "t.csv must hold column names and rows, it is empty"),
        ("id,label,a\n", "t.csv must hold at least one row, got none"),
        ("label,a,a\n0,1,2\n", "t.csv must name every column once, got 'a' 2 times"),
        ("label,a,\n0,1,2\n", "t.csv must name every column, column 3 has no name"),
        ("0,1.5,2\n0,1,2\n", "the first line of t.csv must hold the names of its columns, got '0,1.5,2'"),
        ("id,label\np1,0\n", "t.csv must hold at least one feature column, got only id, label"),
        ("label,a\n5,1\n", "t.csv must hold rows that can be used, got 1 others, the first: column 'label' must hold"),
    ],
)
def test_a_file_that_makes_no_sense(csv, text: str, says: str) -> None:
    with pytest.raises(DataError, match=re.escape(says)) as caught:
        csv(text)
    assert "\n" not in str(caught.value)


def test_an_annotation_that_params_do_not_name_is_no_feature(csv) -> None:
    says = "column 'label' of t.csv must not be a feature: name it as dataset.label or in dataset.drop"
    with pytest.raises(DataError, match=says):
        csv("label,y,a\n0,0,1\n", Table(label="y"))
    assert list(csv("label,y,a\n0,0,1\n", Table(label="y", drop=["label"])).table) == ["a"]


def test_other_csv_dialects(csv) -> None:
    got = csv('\ufefflabel;a;note\n0;1;"x;y"\n0;2;"two\nlines"\n')
    assert got.table["a"].tolist() == [1, 2]
    assert got.table["note"].tolist() == ["x;y", "two\nlines"]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_bytes(b"PAR1 but not really")
    (tmp_path / "t.npz").write_bytes(b"PK no")
    (tmp_path / "t.csv").write_bytes(b"a,label\n\xff\xfe,0\n")
    np.savez(tmp_path / "x.npz", X=np.array([[{}]], dtype=object))
    np.savez(tmp_path / "y.npz", X=np.zeros((3, 2)), y=np.zeros(2))
    np.savez(tmp_path / "z.npz", Z=np.zeros((3, 2)))
    for name, says in {
        "t.parquet": "t.parquet cannot be read as a .parquet table",
        "t.npz": "t.npz cannot be read as a .npz table",
        "t.csv": "t.csv cannot be read as a .csv table: 'utf-8' codec can't decode",
        "x.npz": "x.npz cannot be read as a .npz table: Object arrays cannot be loaded",
        "y.npz": "y of y.npz must hold one label per row of X, 3, got (2,)",
        "z.npz": "z.npz must hold an array X of numbers (rows, columns), got {'Z': ((3, 2), 'float64')}",
        "none.xlsx": "a table must be a .csv or .parquet or .npz file or a folder with one, got none.xlsx",
    }.items():
        with pytest.raises(DataError, match=re.escape(says)):
            read(tmp_path / name, Table(), tmp_path / f"work-{name}")
    with pytest.raises(DataError, match=r"must hold exactly one .* file, got 6: t.csv"):
        read(tmp_path, Table(), tmp_path / "work")


def test_npz_and_parquet(tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", X=np.arange(24.0).reshape(2, 12), y=np.array([0, 1]))
    got = read(tmp_path / "t.npz", Table(), tmp_path / "npz")
    assert list(got.table)[:3] == ["x00", "x01", "x02"]
    assert got.found.manifest["label"].tolist() == [0, 1]

    folder = tmp_path / "folder"
    folder.mkdir()
    frame = pd.DataFrame({"label": [False, True], "n": pd.array([1, None], "Int64"), "f": np.float32([1, 2])})
    frame.assign(t=["a", "b"], m=pd.array([True, None], "boolean")).to_parquet(folder / "t.parquet")
    got = read(folder, Table(), tmp_path / "parquet")
    assert got.found.manifest["label"].tolist() == [0, 1]
    assert {name: str(dtype) for name, dtype in got.table.dtypes.items()} == {
        "n": "float64",
        "f": "float64",
        "t": "category",
        "m": "boolean",
    }
    frame.assign(when=pd.Timedelta("1h")).to_parquet(tmp_path / "spans.parquet")
    with pytest.raises(
        DataError, match=r"column 'when' must hold numbers.* \(spans.parquet\); name it in dataset.drop"
    ):
        read(tmp_path / "spans.parquet", Table(), tmp_path / "spans")


DATES = """label,when,where,almost
0,2024-01-02,x,2024-01-02
0,2024-01-02T03:04:05+02:00,y,soon
0,,x,2024-01-03
"""


def test_dates_are_of_utc_where_all_texts_of_a_column_are_dates(csv) -> None:
    got = csv(DATES)
    dates = [pd.Timestamp("2024-01-02", tz="UTC"), pd.Timestamp("2024-01-02T01:04:05Z"), pd.NaT]
    assert got.table["when"].tolist() == dates
    assert got.table["when"].dtype == "datetime64[us, UTC]"
    assert got.table["almost"].dtype == "category"
    same = csv(DATES.replace("2024-01-02T03:04:05+02:00", "2024-01-02T01:04:05Z")).found.manifest["sha256"]
    assert got.found.manifest["sha256"].tolist() == same.tolist()
    assert same.nunique() == 3


def test_dates_of_a_parquet_file_of_any_kind_are_those_of_utc(tmp_path: Path) -> None:
    naive = pd.to_datetime(["2024-01-02 03:00", None])
    dates = pd.Series([pd.Timestamp("2024-01-02").date(), None])
    frame = pd.DataFrame({"label": 0, "naive": naive, "there": naive.tz_localize("Asia/Tokyo"), "day": dates})
    frame.to_parquet(tmp_path / "t.parquet")
    got = read(tmp_path / "t.parquet", Table(), tmp_path / "work").table
    assert set(map(str, got.dtypes)) == {"datetime64[us, UTC]"}
    expected = [pd.Timestamp(text) for text in ("2024-01-02T03:00Z", "2024-01-01T18:00Z", "2024-01-02T00:00Z")]
    assert got.iloc[0].tolist() == expected
    assert got.iloc[1].isna().all()


def test_a_sensitive_column_is_no_feature_and_stands_behind_the_others(csv) -> None:
    table = Table(sensitive="sex")
    got = csv("label,sex,a\n0,f,1\n1,,2\n", table)
    assert tuple(got.found.manifest.columns) == (*MANIFEST, "row", "sensitive")
    assert got.found.manifest["sensitive"].tolist() == ["f", ""]
    assert list(got.table) == ["a"]
    view = table.from_frame(pd.DataFrame({"sex": ["f"], "a": [1]}))
    assert view.rows["sensitive"].tolist() == ["f"]
    (batch,) = view.batches(9)
    assert list(batch.x) == ["a"]


def test_the_same_source_gives_the_same_bytes(csv) -> None:
    first, again = csv(TEXT + "p4,0,x,1,true,red\n"), csv(TEXT + "p4,0,x,1,true,red\n")
    assert sha256(first.out) == sha256(again.out)
    assert sha256(first.quarantine) == sha256(again.quarantine)


def test_content_hashes_tell_rows_apart_by_their_features(csv) -> None:
    rows = csv("id,label,a,b,t\n1,0,1,2,x\n2,1,1.0,2,x\n3,0,2,1,x\n4,0,1,2,y\n5,0,1,2,\n6,0,-0.0,2,x\n7,0,0,2,x\n")
    hashes = rows.found.manifest["sha256"]
    assert hashes[0] == hashes[1]
    assert hashes[5] == hashes[6]
    assert hashes.nunique() == 5
    other = csv("b,a,id,label,t\n2,1,1,0,x\n9,9,2,0,y\n").found.manifest["sha256"]
    assert other[0] == hashes[0]


def test_samples_join_two_folders_in_order(csv, tmp_path: Path) -> None:
    got = csv(TEXT)
    (tmp_path / "more").mkdir()
    new = got.table[:2].assign(kind=pd.Categorical(["green", "red"]), n=[0.5, 1.5]).set_axis(["s1", "s2"], axis=0)
    table = Table()
    made = table.save([Batch(["s1", "s2"], new, np.array([1, 1], np.int8))], tmp_path / "more")
    assert made["defect"].tolist() == ["synthetic", "synthetic"]
    rows = pd.concat([read_manifest(got.out), read_manifest(tmp_path / "more")], ignore_index=True).iloc[[4, 0, 3, 2]]
    batches = list(table.samples(rows).batches(3))
    assert [b.ids for b in batches] == [["s2", "p1", "s1"], ["p3"]]
    assert batches[0].x.index.tolist() == batches[0].ids
    assert batches[0].x["kind"].tolist() == ["red", "red", "green"]
    assert batches[0].x["n"].tolist() == [1.5, 1.0, 0.5]
    assert batches[0].label.tolist() == [1, 0, 1]


def test_to_frame_and_back_gives_the_same_batches(csv) -> None:
    got, table = csv(TEXT), Table(group="machine", drop=["note"])
    rows = read_manifest(got.out)
    (before,) = table.samples(rows).batches(9)
    frame = table.to_frame(rows).assign(machine="m1", label=0, note="")
    (after,) = table.from_frame(frame).batches(9)
    assert after.ids == before.ids
    pd.testing.assert_frame_equal(after.x, before.x, check_categorical=False)
    assert after.label.tolist() == [-1, -1, -1]
    rows = read_manifest(csv(DATES).out)
    (dated,), (again,) = Table().samples(rows).batches(9), Table().from_frame(Table().to_frame(rows)).batches(9)
    pd.testing.assert_frame_equal(again.x, dated.x, check_categorical=False)
    (unnamed,) = table.from_frame(frame.drop(columns="id")).batches(9)
    assert unnamed.ids == ["row-0000001", "row-0000002", "row-0000003"]
    with pytest.raises(DataError, match="column names must be unique, got 'a' 2 times"):
        table.from_frame(pd.concat([frame, frame[["a"]]], axis=1))


def test_a_batch_to_score_needs_no_labels(csv) -> None:
    table = Table(group="machine", split="part")
    rows = csv("id,a,n,on,kind\np1,1,1,true,red\n", table).found.manifest
    assert rows["label"].tolist() == [-1]


def dataset(n: int = 120) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    label = (np.arange(n) % 4 == 0).astype(int)
    return pd.DataFrame({"label": label, "a": rng.normal(size=n), "t": rng.choice(["x", "y"], n)})


def verdict(frame: pd.DataFrame, tmp_path: Path, table: Table | None = None) -> checks.Verdict:
    frame.to_csv(tmp_path / "t.csv", index=False)
    got = read(tmp_path / "t.csv", table or Table(), tmp_path / "work")
    return checks.validate(*(table or Table()).checks(got.out), "table", tmp_path / "report")


def test_a_sound_table_passes(tmp_path: Path) -> None:
    assert verdict(dataset(), tmp_path) == checks.Verdict([], [])


def test_checks_name_what_is_wrong(tmp_path: Path) -> None:
    frame = dataset().assign(
        flat=1, flag=lambda f: f["label"] * 3, signal=lambda f: f["label"] + 0.5 + 0.1 * f["a"] ** 2
    )
    frame["gaps"] = frame["a"].where(np.arange(len(frame)) % 2 == 0)
    frame["signal"] = np.where(frame["label"] == 1, 5 + frame["a"].abs(), -frame["a"].abs())
    frame = pd.concat([frame, frame[:1]], ignore_index=True)
    found = verdict(frame, tmp_path)
    assert [s.split(":")[0] for s in found.failures] == ["column 'flag' alone tells the label"]
    assert [s.split(":")[0] for s in found.warnings] == [
        "rows with the same label have identical features",
        "column 'flat' holds only one value (got 1)",
        "column 'gaps' misses more than 20% of its values",
        "column 'signal' alone tells the label",
    ]
    assert "row-0000001, row-0000121 (2 of 121)" in found.warnings[0]


def test_checks_stop_a_table_that_contradicts_itself_or_lacks_what_params_name(tmp_path: Path) -> None:
    frame = dataset()
    frame.loc[120] = frame.loc[0].to_dict() | {"label": 0}
    found = verdict(frame.assign(machine="m1"), tmp_path, Table(group="machin", drop=["machine"]))
    assert found.failures == [
        "rows with identical features have different labels: row-0000001, row-0000121 (2 of 121)",
        "no row has a group: column 'machin' (dataset.group) is absent or empty (got 0)",
    ]


def test_checks_stop_a_table_without_the_label_that_params_name_and_hint_at_it(tmp_path: Path) -> None:
    frame = dataset().rename(columns={"label": "class_"})
    (sentence,) = verdict(frame, tmp_path, Table(label="class")).failures
    says = "no row has a label: column 'class' (dataset.label) is absent or empty, did you mean 'class_'?; set "
    assert sentence == says + "dataset.label to null where there are no labels (got 0)"


@pytest.mark.parametrize("table", [Table(), Table(label=None)])
def test_unlabelled_tables_pass_and_the_verdict_says_what_that_means(tmp_path: Path, table: Table) -> None:
    found = verdict(dataset().drop(columns="label"), tmp_path, table)
    assert found.failures == []
    assert found.warnings == [
        "no row is labelled normal, so unlabelled rows stand for normal: anomalies among them blur what is learned, and"
        " make the promised false-alarm rate stricter, not looser (got 120)",
        "no row is anomalous (label 1): nothing to evaluate on (got 0)",
    ]


def test_too_few_unlabelled_rows_fail(tmp_path: Path) -> None:
    (sentence,) = verdict(dataset(7).drop(columns="label"), tmp_path).failures
    assert sentence.startswith("fewer than 8 rows are normal, or unlabelled where none is labelled normal")


def test_unlabelled_rows_beside_normals_do_not_count_and_copies_of_them_contradict_nothing(tmp_path: Path) -> None:
    frame = dataset().astype({"label": "Int64"})
    frame = pd.concat([frame, frame[:1].assign(label=pd.NA)], ignore_index=True)
    assert verdict(frame, tmp_path) == checks.Verdict([], [])


def test_a_sensitive_column_that_is_absent_is_named(tmp_path: Path) -> None:
    (sentence,) = verdict(dataset(), tmp_path, Table(sensitive="sex")).failures
    assert sentence == "no row has a sensitive: column 'sex' (dataset.sensitive) is absent or empty (got 0)"


ORDER = np.random.default_rng(1).permutation(120)
SORTED = (np.arange(120) >= 90).astype(int)  # anomalies come last
NAMES = [f"part {i:03d}" for i in range(120)]


@pytest.mark.parametrize(
    ("values", "ordered", "role"),
    [
        (np.arange(120) + 17, True, "dataset.id"),
        (5.0 * np.arange(120)[::-1], True, "dataset.id"),
        (ORDER, False, "dataset.id"),
        (NAMES, True, "dataset.id"),
        ([NAMES[i] for i in ORDER], False, "dataset.id"),
        (pd.date_range("2024-01-01", periods=120, freq="7h"), True, "dataset.time"),
    ],
)
def test_an_identifier_is_named_and_critical_where_it_tells_the_label(
    tmp_path: Path, values: object, ordered: bool, role: str
) -> None:
    """In a file whose anomalies come last a running number knows them all; in a mixed one it tells nothing."""
    for label, told in ((dataset()["label"], False), (SORTED, ordered)):
        frame = dataset().assign(number=values, label=label)
        work = tmp_path / str(told)
        frame.to_parquet(tmp_path / "t.parquet")
        found, suite = Table().checks(read(tmp_path / "t.parquet", Table(), work / str(label[0])).out)
        (check,) = [check for check in suite if "number" in check.says and "must hold" not in check.says][-1:]
        why = ", and it tells the label, as in a file where anomalies come last" if told else ""
        assert check.critical == told
        assert check.says == (
            f"column 'number' differs from row to row as an identifier does{why}: name it as {role} or in dataset.drop"
        )
        assert check.options == {"column": "assay: identifier number", "min_value": None, "max_value": 0}
        assert set(found["assay: identifier number"]) == {120}


@pytest.mark.parametrize(
    "values",
    [
        np.arange(120) // 2,  # two rows each
        np.arange(120) + 0.5,
        10 * ORDER,
        [f"part number {i} broke" for i in range(120)],  # free text
        pd.to_datetime("2024-01-01") + pd.to_timedelta(ORDER, "h"),
    ],
)
def test_what_is_no_identifier(values: object) -> None:
    column = feature(pd.Series(values), False)[0]
    assert identifies(column) is None
    assert identifies(feature(pd.Series(np.arange(19)), False)[0]) is None  # too few to tell from chance


def test_more_different_texts_than_a_category_can_have_are_critical(tmp_path: Path) -> None:
    n = MOST_TEXTS + 1
    (sentence,) = verdict(dataset(n).assign(number=[f"no{i}" for i in range(n)]), tmp_path).failures
    assert sentence.startswith("column 'number' differs from row to row as an identifier does: name it as dataset.id")


def test_constant_and_empty_columns_are_warned_of(tmp_path: Path) -> None:
    found = verdict(dataset().assign(flat=3, ä_leer=np.nan), tmp_path)
    assert found.failures == []
    assert found.warnings == [
        "column 'flat' holds only one value (got 1)",
        "column 'ä_leer' misses more than 20% of its values: row-0000001, row-0000002, row-0000003, row-0000004, "
        "row-0000005 and 115 more (120 of 120)",
        "column 'ä_leer' holds only one value (got 0)",
    ]


def test_names_and_texts_of_any_alphabet_come_through(csv, tmp_path: Path) -> None:
    got = csv("label,größe,色\n0,1.5,赤\n1,2.5,青\n")
    assert got.table.to_dict("list") == {"größe": [1.5, 2.5], "色": ["赤", "青"]}
    (batch,) = Table().samples(read_manifest(got.out)).batches(9)
    assert Columns().fit(batch.x).features_ == ["größe", "色=赤", "色=青"]


def test_mixed_kinds_in_one_column_are_named(csv) -> None:
    says = "column 'a' must hold numbers, booleans, texts or dates, got mixed-integer values"
    with pytest.raises(DataError, match=says):
        Table().from_frame(pd.DataFrame({"a": [1, "x"]}))
    half = csv("label,a\n0,1\n0,x\n0,y\n")  # no more than half are numbers: texts
    assert half.table["a"].tolist() == ["1", "x", "y"]


def test_checks_find_infinity_that_reached_the_dataset(csv) -> None:
    got = csv(TEXT)
    got.table.assign(a=[1.0, np.inf, 0.0]).to_parquet(got.out / "table.parquet", index=False)
    frame, suite = Table().checks(got.out)
    (check,) = [check for check in suite if "infinity" in check.says]
    assert check.critical
    assert check.says == "rows hold infinity in a"
    assert frame[check.options["column"]].tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([*range(10), *range(100, 110)], 1.0),
        ([*range(100, 110), *range(10)], 1.0),
        ([1] * 20, 0.5),
        ([*[0] * 10, *[1] * 5, *[0] * 5], 0.75),  # the pairs: 5 of 10 won, 5 tied
        (["good"] * 10 + ["bad"] * 10, 1.0),
        (["x"] * 20, 0.5),
        ([f"name {i}" for i in range(20)], 0.5),
        (pd.date_range("2024-01-01", periods=20, tz="UTC"), 1.0),
    ],
)
def test_how_well_one_column_tells_the_label(values: list[object], expected: float) -> None:
    assert gives_away(pd.Series(values), np.repeat([0, 1], 10)) == expected
    assert gives_away(pd.Series(values), np.repeat([0, 1], [11, 9])) is None  # too few to tell from chance


def test_draws_named_pictures(tmp_path: Path) -> None:
    ids = ["../../etc/passwd", "a/b", "a b", "plain", ""]
    frame = pd.DataFrame({f"c{i}": [0.5, np.nan, 1.0, 2.0, 3.0] for i in range(60)} | {"t": ["é\n"] * 5}, index=ids)
    scores = Scores(np.float32([0.1, 2, 3, 4, 5]))
    paths = Table().draw(Batch(ids, frame, np.zeros(5, np.int8)), scores, 1.0, tmp_path / "out")
    assert [p.name for p in paths] == ["_.._etc_passwd.png", "a_b.png", "a_b-2.png", "plain.png", "row.png"]
    assert all(p.parent == tmp_path / "out" for p in paths)
    quiet, alarm = (np.asarray(Image.open(p).convert("RGB")).astype(int) for p in paths[:2])
    assert (alarm[..., 0] - alarm[..., 1] > 100).any()  # red
    assert not (quiet[..., 0] - quiet[..., 1] > 100).any()


def test_describes_its_columns_as_numbers_and_texts() -> None:
    frame = pd.DataFrame(
        {
            "n": [1, 2, 3],
            "flag": pd.array([True, None, False], dtype="boolean"),
            "on": [True, False, True],
            "kind": pd.Categorical(["red", None, "blue"]),
            "text": pd.array(["a", "b", None], dtype="str"),
            "when": pd.to_datetime(["1970-01-02", None, "2024-01-02T03:04:05.5"], utc=True, format="ISO8601"),
            "gone": [np.nan] * 3,
            "no kind": pd.Categorical([None] * 3, categories=["red"]),
            "no day": pd.to_datetime([None] * 3, utc=True),
        },
        index=["p1", "p2", "p3"],
    )
    found = Table().describe(Batch(list(frame.index), frame, np.zeros(3, np.int8)))
    expected = pd.DataFrame(
        {
            "n": [1.0, 2.0, 3.0],
            "flag": [1.0, np.nan, 0.0],
            "on": [1.0, 0.0, 1.0],
            "kind": pd.Series(["red", None, "blue"], index=frame.index, dtype=object),
            "text": pd.Series(["a", "b", None], index=frame.index, dtype=object),
            "when": [86400.0, np.nan, 1704164645.5],
            "gone": [np.nan] * 3,
            "no kind": pd.Series([None] * 3, index=frame.index, dtype=object),
            "no day": [np.nan] * 3,
        },
        index=frame.index,
    )
    pd.testing.assert_frame_equal(found, expected)


LEARNED = pd.DataFrame(
    {
        "a": np.arange(40) / 8,
        "n": np.arange(40) % 7,
        "on": np.arange(40) % 2 == 0,
        "kind": np.where(np.arange(40) % 3 == 0, "7", "red"),
        "day": pd.date_range("2024-01-01", periods=40).strftime("%Y-%m-%d"),
    }
)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> IsolationForest:
    """Learned from a CSV file of LEARNED."""
    work = tmp_path_factory.mktemp("fitted")
    LEARNED.to_csv(work / "t.csv", index=False)
    read(work / "t.csv", Table(), work)
    return IsolationForest(trees=5).fit(Table().samples(read_manifest(work / "dataset")))


def scored(detector: IsolationForest, frame: pd.DataFrame, work: Path) -> tuple[list[float], list[str]]:
    """Scores of the rows of a CSV file that come in parts of 4, in order, and why others were rejected."""
    work.mkdir()
    frame.to_csv(work / "batch.csv", index=False)
    scores, reasons = [], []
    for part in Table().cut(work / "batch.csv", 4, work / "cut").parts:
        got = read(part, Table(), work / part.stem)
        reasons += got.found.rejected["reason"].tolist()
        for batch in Table().samples(read_manifest(got.out)).batches(3):
            scores += detector.score(batch).sample.tolist()
    return scores, reasons


def test_columns_of_a_batch_may_come_in_any_order(fitted: IsolationForest, tmp_path: Path) -> None:
    scores, reasons = scored(fitted, LEARNED[:9], tmp_path / "same")
    assert scored(fitted, LEARNED[:9][["kind", "on", "day", "a", "n"]], tmp_path / "other") == (scores, [])
    assert (len(set(scores)), reasons) == (9, [])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"a": None}, "column 'a' is missing; the model was trained on a, n, on, kind, day"),
        ({"speed": 1.5}, "column 'speed' is unknown; the model was trained on a, n, on, kind, day"),
        ({"a": "high"}, "column 'a' must hold numbers as in training, got texts"),
        ({"n": "true"}, "column 'n' must hold numbers as in training, got booleans"),
        ({"on": 1.5}, "column 'on' must hold booleans as in training, got numbers"),
        ({"kind": 1.5}, "column 'kind' must hold texts as in training, got numbers"),
        ({"day": "soon"}, "column 'day' must hold times as in training, got texts"),
        ({"kind": "2024-01-31"}, "column 'kind' must hold texts as in training, got times"),
    ],
)
def test_a_batch_with_other_columns_than_training_is_refused(
    fitted: IsolationForest, tmp_path: Path, change: dict[str, object], says: str
) -> None:
    gone = [name for name, value in change.items() if value is None]
    frame = LEARNED[:6].assign(**change).drop(columns=gone)
    with pytest.raises(DataError, match=re.escape(says)):
        scored(fitted, frame, tmp_path / "batch")


def test_the_odd_text_among_numbers_is_rejected_though_its_part_holds_nothing_else(
    fitted: IsolationForest, tmp_path: Path
) -> None:
    """Four of nine values are no numbers: a part of them alone would look like a column of texts."""
    frame = LEARNED[:9].astype({"a": object})
    frame.loc[4:7, "a"] = "high"
    scores, reasons = scored(fitted, frame, tmp_path / "batch")
    assert len(scores) == 5
    assert reasons == [f"column 'a' must hold numbers, got 'high' (row {row})" for row in (5, 6, 7, 8)]
    expected, _ = scored(fitted, LEARNED[:9], tmp_path / "all")
    assert scores == expected[:4] + expected[8:]


def test_codes_that_look_like_numbers_in_a_batch_are_texts_still(fitted: IsolationForest, tmp_path: Path) -> None:
    scores, reasons = scored(fitted, LEARNED[:9:3], tmp_path / "batch")
    expected, _ = scored(fitted, LEARNED[:9], tmp_path / "all")
    assert (scores, reasons) == (expected[::3], [])


def test_a_real_table(tmp_path: Path) -> None:
    source = SHARED / "23_mammography.npz"
    if not source.exists():
        pytest.skip("../shared/data/tabular/23_mammography.npz is not on this machine")
    got = read(source, Table(), tmp_path)
    rows = read_manifest(got.out)
    assert (len(rows), int(rows["label"].sum())) == (11183, 260)
    samples = Table().samples(rows)
    detector = IsolationForest().fit(samples[::2])
    scores = np.concatenate([detector.score(b).sample for b in samples[1::2].batches(1000)])
    label = samples[1::2].label
    assert np.mean(scores[label == 1][:, None] > scores[label == 0][None, :]) > 0.85
