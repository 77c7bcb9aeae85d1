"""Parts of a table hold together what the whole holds, whatever its rows are like and however many go into a part."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pyarrow import parquet

from pipeline.modalities.table import Table
from pipeline.parts import table_streams
from pipeline.protocols import Ingested

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
        tuple(frame.dtypes.map(lambda t: "category" if isinstance(t, pd.CategoricalDtype) else str(t)))
        for _, frame in each
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


def random_csv(seed: int) -> str:
    """A table with everything that can be odd about one, the odd rows seldom enough to hide in other parts."""
    rng = np.random.default_rng(seed)

    def pick(usual: list[str], odd: list[str], share: float) -> list[str]:
        return [str(rng.choice(odd if rng.random() < share else usual)) for _ in range(N)]

    columns = {
        "id": [f"p{i}" for i in range(N)],
        "label": pick(["0", "1", "", "-1"], ["0.0", "5", "true"], 0.05),
        "whole": [str(v) for v in rng.integers(0, 9, N)],
        "gaps": pick(["1", "2"], ["NA", " "], 0.05),
        "real": pick(["1.5", "-2e3", "7"], ["0.25"], 0.1),
        "hex": pick(["1", "2"], ["0x10", "3"], 0.1),
        "mostly": pick(["1", "2.5", "+3"], ["oops", "NAN", "inf", "12a"], 0.1),
        "seldom": pick(["0", "1"], ["1.5"], 0.03),
        "flag": pick(["true", "FALSE"], [""], 0.05),
        "day": pick(["2024-01-31", "2024-01-31T09:30+02:00"], ["null"], 0.1),
        "kind": pick(["1", "2"], ["red", "blue", "it's", "zwei\nZeilen", 'say "x"', "ä;,"], 0.6),
        "empty": [""] * N,
        "group": pick(["g1", "7"], [""], 0.1),
        "when": pick(["86400", "2024-01-02T03:04:05"], ["never"], 0.03),
    }
    for i, j in rng.integers(0, N, (4, 2)):
        columns["id"][i] = columns["id"][j]
    columns["id"][int(rng.integers(N))] = ""
    lines = ["\ufeff" + ",".join(columns), ""]
    for row in zip(*columns.values(), strict=True):
        lines.append(
            ",".join('"' + value.replace('"', '""') + '"' if re.search('[",\n]', value) else value for value in row)
        )
        if rng.random() < 0.1:
            lines += [["just,two", "too,many" + "," * 20, "", "1"][int(rng.integers(4))]]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("size", [1, 7, N - 1, N, N + 1])
def test_parts_of_a_csv_are_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, size: int) -> None:
    monkeypatch.setattr(table_streams, "BLOCK", 700)  # many chunks
    monkeypatch.setattr(table_streams, "ROWS", 5)
    (tmp_path / "t.csv").write_text(random_csv(seed), encoding="utf-8")
    table = Table(group="group", time="when", id="id" if seed % 2 else None, drop=[] if seed % 2 else ["id"])
    same(tmp_path / "t.csv", size, table, tmp_path)
