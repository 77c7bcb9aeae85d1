"""Parts of a table hold together what the whole holds, whatever its rows are like and however many go into a part."""

import errno
import os
import re
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import csv, parquet

from pipeline.errors import DataError
from pipeline.modalities.table import Table
from pipeline.parts import table_cuts, table_streams
from pipeline.protocols import Ingested
from pipeline.samples import read_manifest

N = 61


def ingest(source: Path, table: Table, work: Path) -> tuple[Ingested, pd.DataFrame]:
    """What ingest finds, and table.parquet."""
    for folder in ("dataset", "quarantine"):
        (work / folder).mkdir(parents=True)
    found = table.ingest(source, work / "dataset", work / "quarantine")
    kept = pd.read_parquet(work / "quarantine/rejected.parquet")
    assert kept[["id", "path", "reason"]].equals(found.rejected)
    return Ingested(found.manifest, kept), pd.read_parquet(work / "dataset/table.parquet")


def together(parts: list[Path], table: Table, work: Path) -> tuple[Ingested, pd.DataFrame]:
    """What ingest finds in all parts; types of the parts are one."""
    each = [ingest(part, table, work / part.stem) for part in parts]
    types = {
        tuple(sorted((c, "category" if isinstance(t, pd.CategoricalDtype) else str(t)) for c, t in f.dtypes.items()))
        for _, f in each
    }
    assert len(types) == 1
    manifest = pd.concat([found.manifest for found, _ in each], ignore_index=True)
    rejected = pd.concat([found.rejected for found, _ in each], ignore_index=True)
    frames = [
        frame.astype({c: object for c in frame if isinstance(frame[c].dtype, pd.CategoricalDtype)}) for _, frame in each
    ]
    whole = pd.concat(frames, ignore_index=True)
    for column, dtype in each[0][1].dtypes.items():
        whole[column] = whole[column].astype("category" if isinstance(dtype, pd.CategoricalDtype) else dtype)
    return Ingested(manifest.drop(columns="row"), rejected), whole


def same(source: Path, size: int, table: Table, work: Path) -> None:
    """Parts of at most `size` rows give what the whole gives."""
    expected, frame = ingest(source, table, work / "whole")
    cut = table.cut(source, size, work / "cut")
    found, parts = together(cut.parts, table, work / "parts")
    pd.testing.assert_frame_equal(found.manifest, expected.manifest.drop(columns="row"))
    by = ["reason", "id", "raw"]
    pd.testing.assert_frame_equal(
        found.rejected.sort_values(by, ignore_index=True), expected.rejected.sort_values(by, ignore_index=True)
    )
    pd.testing.assert_frame_equal(parts, frame)
    rows = [len(parquet.read_table(part)) for part in cut.parts]
    assert rows[:-1] == [size] * (len(rows) - 1)
    assert sum(rows) == len(expected.manifest) + len(expected.rejected)


def random_csv(seed: int, n: int = N) -> str:
    """A table with everything that can be odd about one, the odd rows seldom enough to hide in other parts."""
    rng = np.random.default_rng(seed)

    def pick(usual: list[str], odd: list[str], share: float) -> list[str]:
        return [str(rng.choice(odd if rng.random() < share else usual)) for _ in range(n)]

    columns = {
        "id": [f"p{i}" for i in range(n)],
        "label": pick(["0", "1", "", "-1"], ["0.0", "5", "true"], 0.05),
        "whole": [str(v) for v in rng.integers(0, 9, n)],
        "gaps": pick(["1", "2"], ["NA", " "], 0.05),
        "real": pick(["1.5", "-2e3", "7"], ["0.25"], 0.1),
        "hex": pick(["1", "2"], ["0x10", "3"], 0.1),
        "mostly": pick(["1", "2.5", "+3"], ["oops", "NAN", "inf", "12a"], 0.1),
        "seldom": pick(["0", "1"], ["1.5"], 0.03),
        "flag": pick(["true", "FALSE"], [""], 0.05),
        "day": pick(["2024-01-31", "2024-01-31T09:30+02:00"], ["null"], 0.1),
        "kind": pick(["1", "2"], ["red", "blue", "it's", "zwei\nZeilen", 'say "x"', "ä;,"], 0.6),
        "empty": [""] * n,
        "group": pick(["g1", "7"], [""], 0.1),
        "when": pick(["86400", "2024-01-02T03:04:05"], ["never"], 0.03),
    }
    for i, j in rng.integers(0, n, (4, 2)):
        columns["id"][i] = columns["id"][j]
    columns["id"][int(rng.integers(n))] = ""
    lines = ["\ufeff" + ",".join(columns), ""]
    for row in zip(*columns.values(), strict=True):
        quoted = ['"' + v.replace('"', '""') + '"' if re.search('[",\n]', v) else v for v in row]
        broken = ["just,two", "too,many" + "," * 20, "1", '"one\nfield"']
        lines.append(broken[int(rng.integers(4))] if rng.random() < 0.1 else ",".join(quoted))
        lines += [""] if rng.random() < 0.05 else []
    return "\n".join(lines) + "\n"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many chunks, ids that are sorted many times."""
    monkeypatch.setattr(table_streams, "BLOCK", 700)
    monkeypatch.setattr(table_streams, "ROWS", 5)
    monkeypatch.setattr(table_cuts, "WAITING", 9)


CASES = [(20, 1, 0), *((N, size, seed) for seed in range(1, 4) for size in (7, N - 1, N, N + 1))]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(("rows", "size", "seed"), CASES)
def test_parts_of_a_csv_are_the_whole(tmp_path: Path, rows: int, size: int, seed: int) -> None:
    (tmp_path / "t.csv").write_text(random_csv(seed, rows), encoding="utf-8")
    table = Table(group="group", time="when", id="id" if seed % 2 else None, drop=[] if seed % 2 else ["id"])
    same(tmp_path / "t.csv", size, table, tmp_path)


def random_frame(seed: int, n: int = N) -> pd.DataFrame:
    """Columns of all types that Parquet files hold, with runs of missing values as long as a part."""
    rng = np.random.default_rng(seed)
    day = pd.Timestamp("2024-01-31")
    columns = {
        "id": rng.integers(0, 40, n).astype(float) + np.where(rng.random(n) < 0.05, 0.5, 0),
        "label": rng.choice([0.0, 1.0, -1.0], n),
        "whole": rng.integers(0, 9, n).astype(np.int32),
        "gaps": pd.array(rng.integers(0, 9, n)).astype("int64[pyarrow]"),
        "large": pd.array(rng.integers(1 << 53, 1 << 60, n)).astype("int64[pyarrow]"),
        "real": rng.normal(size=n).astype(np.float32),
        "flag": pd.array(rng.random(n) < 0.5).astype("bool[pyarrow]"),
        "text": pd.array(rng.choice(["red", "blue", "", "1"], n), dtype="str"),
        "level": pd.Categorical(rng.choice(["x", "y"], n)),
        "when": day + pd.to_timedelta(rng.integers(0, 99, n), "h"),
        "day": pd.array([day.date()] * n).astype("date32[pyarrow]"),
        "price": [Decimal(int(v)) / 4 for v in rng.integers(0, 99, n)],
        "batch": day + pd.to_timedelta(np.where(rng.random(n) < 0.03, 90.5, 0), "s"),
        "odd": np.where(rng.random(n) < 0.05, np.inf, 1.5),
    }
    frame = pd.DataFrame(columns)
    for name in ("gaps", "large", "real", "flag", "text", "level", "when", "day", "price", "batch", "id"):
        start = int(rng.integers(n))
        frame.loc[start : start + (2 if name == "id" else 20), name] = None
    return frame


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(("rows", "size", "seed"), CASES)
def test_parts_of_a_parquet_file_are_the_whole(tmp_path: Path, rows: int, size: int, seed: int) -> None:
    frame = random_frame(seed, rows)
    if seed % 2:
        frame.set_index("whole").to_parquet(tmp_path / "t.parquet", row_group_size=23)  # then no feature
    else:
        table = pa.Table.from_pandas(frame).replace_schema_metadata(None)
        parquet.write_table(table, tmp_path / "t.parquet", row_group_size=23)
    same(tmp_path / "t.parquet", size, Table(group="batch", category="large"), tmp_path)


@pytest.mark.parametrize("size", [7, N])
def test_parts_of_an_npz_file_are_the_whole(tmp_path: Path, size: int) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "t.npz", X=rng.normal(size=(N, 3)), y=rng.integers(0, 3, N))
    same(tmp_path / "t.npz", size, Table(), tmp_path)


def test_an_id_that_came_in_another_part_is_rejected_by_its_row(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("id,a\nx,1\ny,2\nx,3\nz,4\n,5\n,6\ny,7\nx,8\n")
    cut = Table().cut(tmp_path / "t.csv", 2, tmp_path / "cut")
    found, _ = together(cut.parts, Table(), tmp_path)
    assert found.manifest["id"].tolist() == ["x", "y", "z"]
    again = "column 'id' must hold unique ids, got {!r} again (row {})"
    none = "column 'id' must hold an id in every row, got '' (row {})"
    expected = [again.format("x", 3), none.format(5), none.format(6), again.format("y", 7), again.format("x", 8)]
    assert found.rejected["reason"].tolist() == expected
    assert set(found.rejected["path"]) == {"t.csv"}


def test_a_part_without_a_good_row_is_empty_and_not_an_error(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b\n1,2\n3\n4,5,6\n7\n8,9\n")
    cut = Table().cut(tmp_path / "t.csv", 2, tmp_path / "cut")
    found, frame = ingest(cut.parts[1], Table(), tmp_path / "one")
    assert len(found.manifest) == len(frame) == 0
    assert frame.columns.tolist() == ["a", "b"]
    assert found.rejected["id"].tolist() == ["row-0000003", "row-0000004"]
    assert found.rejected["reason"].tolist() == [
        "must have 2 fields, got 3 (row 3)",
        "must have 2 fields, got 1 (row 4)",
    ]
    assert found.rejected["raw"].tolist() == ["4,5,6", "7"]
    samples = Table().samples(read_manifest(tmp_path / "one/dataset"))
    assert list(samples.batches(9)) == []


def test_the_content_is_that_of_the_source(tmp_path: Path) -> None:
    texts = {"a": "x\n1\n2\n", "b": "x\n1\n3\n"}
    content = {}
    for name, text in texts.items():
        for folder in ("here", "there"):
            (tmp_path / folder / name).mkdir(parents=True)
            (tmp_path / folder / name / f"{folder}.csv").write_text(text)
        cuts = [
            Table().cut(tmp_path / "here" / name / "here.csv", 1, tmp_path / "cut1" / name),
            Table().cut(tmp_path / "there" / name, 2, tmp_path / "cut2" / name),
        ]
        content[name] = {cut.content for cut in cuts}
        assert len(content[name]) == 1
        assert [len(cut.parts) for cut in cuts] == [2, 1]
    assert content["a"] != content["b"]
    assert re.fullmatch("[0-9a-f]{64}", content["a"].pop())


def test_equal_sources_give_equal_parts(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(random_csv(1), encoding="utf-8")
    one, two = (Table().cut(tmp_path / "t.csv", 9, tmp_path / name) for name in ("one", "two"))
    assert [part.read_bytes() for part in one.parts] == [part.read_bytes() for part in two.parts]
    assert [part.name for part in one.parts][:2] == ["00000.parquet", "00001.parquet"]
    assert sorted(p.name for p in (tmp_path / "one").iterdir()) == [part.name for part in one.parts]


def test_a_folder_of_tables_is_one_batch(tmp_path: Path) -> None:
    """Hourly files: cut one by one, types decided over all of them, rows called after their file."""
    folder = tmp_path / "hourly"
    (folder / "late").mkdir(parents=True)
    (folder / "00.csv").write_text("a,b\n1,x\n2,y\n3,z\n")
    (folder / "01.csv").write_text("b,a\n")  # nothing happened
    (folder / "late/02.csv").write_text("b;a\nu;5.5\nv\n")
    cut = Table().cut(folder, 2, tmp_path / "cut")
    assert len(cut.parts) == 3
    found, _ = together(cut.parts, Table(), tmp_path)
    assert found.manifest["id"].tolist() == [
        *(f"00.csv/row-000000{i}" for i in (1, 2, 3)),
        "late/02.csv/row-0000001",
    ]
    assert found.rejected[["id", "path", "reason"]].to_numpy().tolist() == [
        ["late/02.csv/row-0000002", "late/02.csv", "must have 2 fields, got 1 (row 2)"]
    ]
    assert str(ingest(cut.parts[0], Table(), tmp_path / "first")[1]["a"].dtype) == "float64"
    moved = folder.rename(tmp_path / "moved")
    assert Table().cut(moved, 5, tmp_path / "other").content == cut.content
    (moved / "00.csv").rename(moved / "03.csv")
    assert Table().cut(moved, 5, tmp_path / "again").content != cut.content
    with pytest.raises(DataError, match="folder moved must hold exactly one .csv or .parquet or .npz file, got 3: "):
        ingest(moved, Table(), tmp_path / "training")


def test_ids_are_unique_in_all_files_of_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "raw"
    folder.mkdir()
    (folder / "a.csv").write_text("id,v\n7,1\n8,2\n")
    pd.DataFrame({"id": [8, 9], "v": [1.5, 2.5]}).to_parquet(folder / "b.parquet")
    each = [ingest(part, Table(), tmp_path / part.stem)[0] for part in Table().cut(folder, 9, tmp_path / "cut").parts]
    assert [found.manifest["id"].tolist() for found in each] == [["7", "8"], ["9"]]
    assert each[1].rejected["reason"].tolist() == ["column 'id' must hold unique ids, got '8' again (row 1)"]


def test_files_with_different_columns_are_no_batch(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x,y\n1,2\n")
    (tmp_path / "b.csv").write_text("x,z,y\n1,2,3\n")
    with pytest.raises(DataError, match=r"b.csv must have the columns of a.csv, column 'z' is only in b.csv"):
        Table().cut(tmp_path, 9, tmp_path / "cut")


@pytest.mark.parametrize("name", ["t.csv", "bare.csv", "t.parquet", "t.npz"])
def test_a_table_without_rows_has_no_parts(tmp_path: Path, name: str) -> None:
    (tmp_path / "t.csv").write_text("id,a\n")
    (tmp_path / "bare.csv").write_text("id,a")
    pd.DataFrame({"a": [1.0]})[:0].to_parquet(tmp_path / "t.parquet")
    np.savez(tmp_path / "t.npz", X=np.zeros((0, 2)))
    cut = Table().cut(tmp_path / name, 9, tmp_path / "cut")
    assert cut.parts == []
    assert len(cut.content) == 64
    with pytest.raises(DataError, match=f"{name} must hold at least one row, got none"):
        ingest(tmp_path / name, Table(), tmp_path / "whole")


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("t.csv", b"", "t.csv must hold column names and rows, it is empty"),
        ("t.csv", b"a,b\n1\xff,2\n", "t.csv cannot be read as a .csv table: 'utf-8' codec can't decode"),
        ("t.csv", b"a,a\n1,2\n", "t.csv must name every column once, got 'a' 2 times"),
        ("t.parquet", b"", "t.parquet cannot be read as a .parquet table: "),
        ("t.parquet", b"PAR1 but not really", "t.parquet cannot be read as a .parquet table: "),
        ("t.npz", b"", "t.npz cannot be read as a .npz table: "),
        ("t.txt", b"a\n1\n", "a table must be a .csv or .parquet or .npz file or a folder with one, got t.txt"),
    ],
)
def test_what_is_no_table_is_not_cut(tmp_path: Path, name: str, data: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=re.escape(says)):
        Table().cut(tmp_path / name, 9, tmp_path / "cut")


def test_a_damaged_page_is_named(tmp_path: Path) -> None:
    pd.DataFrame({"a": np.arange(9999) / 7}).to_parquet(tmp_path / "t.parquet")
    data = bytearray((tmp_path / "t.parquet").read_bytes())
    data[4:3000] = bytes(2996)
    (tmp_path / "t.parquet").write_bytes(data)
    with pytest.raises(DataError, match="t.parquet cannot be read as a .parquet table: "):
        Table().cut(tmp_path / "t.parquet", 9, tmp_path / "cut")


def test_a_column_of_no_usable_kind_is_named_before_a_row_is_scored(tmp_path: Path) -> None:
    pd.DataFrame({"a": [1, 2], "odd": [None, [3]]}).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(DataError, match="column 'odd' must hold numbers, booleans, texts or dates, got"):
        Table().cut(tmp_path / "t.parquet", 1, tmp_path / "cut")
    assert len(Table(drop=["odd"]).cut(tmp_path / "t.parquet", 1, tmp_path / "cut").parts) == 2


@pytest.mark.parametrize(("how", "says"), [("grow", "changed"), ("touch", "changed"), ("vanish", "vanished")])
def test_a_file_that_does_not_stay_as_it_is_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, says: str
) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a\n1\n2\n")
    write = table_cuts._write

    def meanwhile(*given: object) -> list[Path]:
        if how == "grow":
            path.write_text("a\n1\n2\n3\n")
        elif how == "touch":
            os.utime(path, ns=(0, 0))
        else:
            path.unlink()
        return write(*given)

    monkeypatch.setattr(table_cuts, "_write", meanwhile)
    with pytest.raises(DataError, match=f"t.csv must stay as it is while it is read, it {says}"):
        Table().cut(path, 1, tmp_path / "cut")


def test_a_full_disk_is_no_fault_of_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "t.csv").write_text("a\n1\n")

    def full(*_: object) -> list[Path]:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(table_cuts, "_write", full)
    with pytest.raises(OSError, match="No space left"):
        Table().cut(tmp_path / "t.csv", 1, tmp_path / "cut")


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_memory_does_not_grow_with_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    """What Arrow holds at most is the same for five times the rows."""
    monkeypatch.setattr(table_streams, "BLOCK", 1 << 12)
    monkeypatch.setattr(table_streams, "BUFFER", 1 << 12)
    monkeypatch.setattr(table_streams, "ROWS", 500)
    options = {"data_page_size": 1 << 12, "use_dictionary": False}
    pool, peaks = pa.default_memory_pool(), []
    for rows in (10_000, 50_000):
        table = pa.table({"a": np.arange(rows) / 7, "b": np.arange(rows), "id": np.arange(rows).astype(str)})
        path = tmp_path / f"{rows}.{suffix}"
        csv.write_csv(table, path) if suffix == "csv" else parquet.write_table(table, path, **options)
        counted = pa.proxy_memory_pool(pool)
        pa.set_memory_pool(counted)
        try:
            assert len(Table().cut(path, 5000, tmp_path / f"cut-{rows}").parts) == rows // 5000
        finally:
            pa.set_memory_pool(pool)
        peaks.append(counted.max_memory())
    assert peaks[1] < 1.25 * peaks[0]


def test_a_column_of_ids_without_one_rejects_every_row(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("id,a\n,1\n,2\n,3\n")
    found, _ = together(Table().cut(tmp_path / "t.csv", 2, tmp_path / "cut").parts, Table(), tmp_path)
    assert len(found.manifest) == 0
    assert found.rejected["reason"].tolist() == [
        f"column 'id' must hold an id in every row, got '' (row {row})" for row in (1, 2, 3)
    ]


def test_row_numbers_of_ids_go_on_over_parts(tmp_path: Path) -> None:
    pd.DataFrame({"a": range(5)}).to_parquet(tmp_path / "t.parquet")
    found, _ = together(Table().cut(tmp_path / "t.parquet", 2, tmp_path / "cut").parts, Table(), tmp_path)
    assert found.manifest["id"].tolist() == [f"row-000000{i}" for i in (1, 2, 3, 4, 5)]
