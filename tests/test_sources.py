"""Sources: each kind becomes a local path, each mistake one sentence, no secret is ever shown."""

import functools
import http.server
import re
import sqlite3
import sys
import threading
import traceback
import zipfile
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pandas as pd
import pytest

from pipeline import globs, remote, sources, urls
from pipeline.errors import DataError, ParamsError


@pytest.fixture
def work(tmp_path: Path) -> Path:
    return tmp_path / "work"


def test_a_local_path_stays_where_it_is(tmp_path: Path, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/table.csv").write_text("a\n1\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert sources.fetch("raw", work) == tmp_path / "raw"
    assert sources.fetch("./raw/table.csv", work) == tmp_path / "raw/table.csv"
    assert sources.fetch("~/raw", work) == tmp_path / "raw"


def test_a_source_that_does_not_exist(work: Path) -> None:
    with pytest.raises(
        DataError, match=r"^source 'nowhere/at/all' does not exist: it must be a local file, folder or glob"
    ):
        sources.fetch("nowhere/at/all", work)


@pytest.mark.parametrize(("name", "near"), [("demo:texture", "demo:textures"), ("demo:wbdc", "demo:wdbc")])
def test_an_unknown_demo_names_the_nearest(name: str, near: str, work: Path) -> None:
    with pytest.raises(ParamsError, match=rf"got '{name}' \(params.yaml\); did you mean {near}"):
        sources.fetch(name, work)


@pytest.mark.parametrize("name", sources.DEMOS)
def test_every_demo_is_there(name: str, work: Path) -> None:
    assert sources.fetch(name, work).exists()


def test_a_local_archive_is_unpacked(tmp_path: Path, work: Path) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("good/a.txt", "1")
        archive.writestr("bad/b.txt", "2")
    found = sources.fetch(str(tmp_path / "set.zip"), work)
    assert work in found.parents
    assert (found / "bad/b.txt").read_text() == "2"


# --- fsspec


def test_a_file_url(tmp_path: Path, work: Path) -> None:
    (tmp_path / "table.csv").write_text("a\n1\n")
    found = sources.fetch(f"file://{tmp_path}/table.csv", work)
    assert found.name == "table.csv"
    assert found.read_text() == "a\n1\n"
    assert work in found.parents


@pytest.fixture
def memory() -> Iterator[fsspec.AbstractFileSystem]:
    files = fsspec.filesystem("memory")
    yield files
    files.store.clear()
    files.pseudo_dirs[:] = [""]


@pytest.mark.parametrize("end", ["", "/"])
def test_a_folder_comes_with_all_below_it(end: str, memory: fsspec.AbstractFileSystem, work: Path) -> None:
    for name in ("train/good/a.txt", "train/good/deep/b.txt", "c.txt"):
        memory.pipe(f"/set/{name}", name.encode())
    found = sources.fetch(f"memory://set{end}", work)
    files = {p.relative_to(found).as_posix(): p.read_text() for p in found.rglob("*") if p.is_file()}
    assert files == {name: name for name in ("train/good/a.txt", "train/good/deep/b.txt", "c.txt")}


def test_an_archive_behind_a_url_is_unpacked(memory: fsspec.AbstractFileSystem, tmp_path: Path, work: Path) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("one.csv", "a\n1\n")
    memory.pipe("/set.zip", (tmp_path / "set.zip").read_bytes())
    assert sources.fetch("memory://set.zip", work).read_text() == "a\n1\n"


def test_urls_that_lead_nowhere(memory: fsspec.AbstractFileSystem, tmp_path: Path, work: Path) -> None:
    with pytest.raises(DataError, match=r"^source memory://set does not exist \(read through fsspec's memory"):
        sources.fetch("memory://set", work)
    with pytest.raises(DataError, match=r"^source file:///no/such/file does not exist"):
        sources.fetch("file:///no/such/file", work)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="is an empty folder"):
        sources.fetch(f"file://{tmp_path}/empty", work)


def test_protocols_that_cannot_be_had(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"^source ftpp://host/x is not a protocol that fsspec knows"):
        sources.fetch("ftpp://host/x", work)
    needy = {"class": "no_such_package_at_all.Files", "err": "Install no-such-package to use needy"}
    monkeypatch.setitem(sys.modules["fsspec.registry"].known_implementations, "needy", needy)
    with pytest.raises(DataError, match=r"needs a package that is not installed: Install no-such-package to use needy"):
        sources.fetch("needy://host/x", work)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """The address of a loopback web server over tmp_path."""
    handler = functools.partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_http(web: str, tmp_path: Path, work: Path) -> None:
    (tmp_path / "table.csv").write_text("a\n1\n")
    found = sources.fetch(f"http://{web}/table.csv?token=abcdef", work)
    assert (found.name, found.read_text()) == ("table.csv", "a\n1\n")


def test_no_secret_of_a_url_is_shown(web: str, work: Path) -> None:
    url = f"http://someone:p%40ss-word@{web}/gone.csv?signature=s3cr3t-value#part"
    with pytest.raises(DataError) as caught:
        sources.fetch(url, work)
    told = "".join(traceback.format_exception(caught.value))  # what ends up in .assay/error.log
    assert f"source http://{web}/gone.csv does not exist" in str(caught.value)
    for secret in ("p%40ss-word", "p@ss-word", "s3cr3t-value", "someone"):
        assert secret not in told


@pytest.mark.parametrize(
    "url",
    [
        "nowhere+x://me:hush-hush@host/data?password=hush-hush",
        "nowhere+x://hush-hush@host/data",
        "nowhere+x://me:hush-hush/with-slash@host/data",
        "zip://a.csv::nowhere+x://me:hush-hush@host/data.zip",
        "file://me:hush-hush@host/data?to=me@host",
        "file://me:hush-hush@host/*.png",
    ],
)
def test_no_secret_of_an_odd_url_is_shown(url: str, work: Path) -> None:
    with pytest.raises(DataError) as caught:
        sources.fetch(url, work)
    assert "hush" not in "".join(traceback.format_exception(caught.value))


def test_no_secret_in_what_a_library_says() -> None:
    url = "https://me:p%40ss@host/a.csv?signature=top%2Fsecret#x"
    said = urls.clean(OSError(f"403 for {url} (me, p@ss, p%40ss, top/secret, top%2Fsecret)\nmore"), url)
    assert said == "403 for https://host/a.csv (me, ***, ***, ***, ***)"


# --- SQL


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> sqlite3.Connection:
    connection = sqlite3.connect(tmp_path / "parts.db")
    monkeypatch.setenv(sources.SQL_URL, f"sqlite:///{tmp_path}/parts.db")
    return connection


def fill(database: sqlite3.Connection, rows: list[tuple[object, ...]]) -> None:
    database.execute("CREATE TABLE parts (id INTEGER, width, note)")
    database.executemany("INSERT INTO parts VALUES (?, ?, ?)", rows)
    database.commit()
    database.close()


def test_a_query_becomes_a_parquet_file(database: sqlite3.Connection, work: Path) -> None:
    fill(database, [(1, 0.5, "a:b"), (2, None, "50%"), (3, 2.0, None)])
    found = sources.fetch("sql:SELECT id, width, note FROM parts WHERE note IS NULL OR note != ':x' ORDER BY id", work)
    table = pd.read_parquet(found)
    assert table["id"].tolist() == [1, 2, 3]
    assert table["width"].tolist()[::2] == [0.5, 2.0]
    assert table["width"].isna().tolist() == [False, True, False]
    assert table["note"].tolist()[:2] == ["a:b", "50%"]
    assert [p.name for p in work.iterdir()] == ["query.parquet"]


def test_percent_signs_are_the_querys_own(database: sqlite3.Connection, work: Path) -> None:
    fill(database, [(1, 1, "abc"), (2, 2, "xyz")])
    found = sources.fetch("sql:with t as (select * from parts) select id from t where note like '%b%'", work)
    assert pd.read_parquet(found)["id"].tolist() == [1]


def test_rows_stream_and_types_widen(database: sqlite3.Connection, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first part has no note and whole widths, the second has both: the file has one schema."""
    fill(database, [(1, 1, None), (2, 2, None), (3, 2.5, "c"), (4, None, None), (5, 5, "e")])
    monkeypatch.setattr(sources, "ROWS", 2)
    table = pd.read_parquet(sources.fetch("sql:SELECT * FROM parts ORDER BY id", work))
    assert table["id"].tolist() == [1, 2, 3, 4, 5]
    assert table["width"].dtype == "float64"
    assert table["width"].fillna(-1).tolist() == [1, 2, 2.5, -1, 5]
    assert table["note"].fillna("").tolist() == ["", "", "c", "", "e"]


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("SELECT depth FROM parts", "the SQL query 'SELECT depth FROM parts' fails: no such column: depth"),
        ("SELECT * FROM parts WHERE id > 9", "the SQL query gives no rows"),
        ("SELECT id, width AS id FROM parts", "the SQL query gives the column 'id' twice"),
        ("SELECT note FROM parts", "column 'note' of the SQL query must hold one type of value, got int, str"),
        ("DELETE FROM parts", "must be a SELECT"),
        ("", "must be a SELECT"),
    ],
)
def test_queries_that_do_not_work(query: str, sentence: str, database: sqlite3.Connection, work: Path) -> None:
    fill(database, [(1, 1, "text"), (2, 2, 5)])
    with pytest.raises(DataError) as caught:
        sources.fetch(f"sql:{query}", work)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_type_that_changes_between_parts(
    database: sqlite3.Connection, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(database, [(1, 1, "text"), (2, 2, 5)])
    monkeypatch.setattr(sources, "ROWS", 1)
    with pytest.raises(DataError, match="a column of the SQL query changes its type between rows"):
        sources.fetch("sql:SELECT note FROM parts", work)


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("", "needs the SQLAlchemy URL of the database in ASSAY_SQL_URL, which is empty"),
        ("not a url", "ASSAY_SQL_URL must be a SQLAlchemy URL"),
        ("oracle+cx_oracle://me:hush-hush@host/db", "ASSAY_SQL_URL needs a driver that is not installed"),
        ("nosuch://me:hush-hush@host/db", "ASSAY_SQL_URL must be a SQLAlchemy URL"),
        ("sqlite:///no/such/file.db", "names a SQLite file that does not exist: no/such/file.db"),
    ],
)
def test_databases_that_cannot_be_opened(url: str, sentence: str, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(sources.SQL_URL, url)
    with pytest.raises(DataError) as caught:
        sources.fetch("sql:SELECT 1", work)
    assert sentence in str(caught.value)
    assert "hush" not in "".join(traceback.format_exception(caught.value))


# --- globs


def names(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


MATCHES = [
    ("*.png", ["a.png", "b.png"]),
    ("?.png", ["a.png", "b.png"]),
    ("[ac].*", ["a.png", "c.txt"]),
    ("2026-*/**/*.csv", ["2026-01/deep/er/f.csv", "2026-01/e.csv"]),
    ("2026-*", ["2026-01/d.png", "2026-01/deep/er/f.csv", "2026-01/e.csv", "2026-02/a.png"]),
    ("**/a.png", ["2026-02/a.png", "a.png"]),
    ("2026-0[12]/*.png", ["2026-01/d.png", "2026-02/a.png"]),
    (".h*", [".hidden.png"]),
]
TREE = (
    *("a.png", "b.png", "c.txt", ".hidden.png", ".dot/x.png"),
    *("2026-01/d.png", "2026-01/e.csv", "2026-01/deep/er/f.csv", "2026-02/a.png"),
)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in TREE:
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path / "in"


@pytest.mark.parametrize(("pattern", "expected"), MATCHES)
def test_a_local_glob(pattern: str, expected: list[str], tree: Path, work: Path) -> None:
    found = sources.fetch(f"{tree}/{pattern}", work)
    assert work in found.parents
    assert names(found) == expected
    assert all((found / name).samefile(tree / name) for name in expected)  # links, no copies


@pytest.mark.parametrize(("pattern", "expected"), MATCHES)
@pytest.mark.parametrize("protocol", ["memory", "file"])
def test_a_glob_behind_a_url(
    protocol: str, pattern: str, expected: list[str], tree: Path, memory: fsspec.AbstractFileSystem, work: Path
) -> None:
    for name in TREE:
        memory.pipe(f"/bucket/in/{name}", name.encode())
    start = {"memory": "memory://bucket/in", "file": f"file://{tree}"}[protocol]
    found = sources.fetch(f"{start}/{pattern}", work)
    assert names(found) == expected
    assert all((found / name).read_text() == name for name in expected)


def test_a_glob_over_the_web(web: str, tree: Path, work: Path) -> None:
    found = sources.fetch(f"http://{web}/in/2026-*/*.png", work)
    assert names(found) == ["2026-01/d.png", "2026-02/a.png"]


def test_a_relative_glob_begins_here(tree: Path, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree)
    monkeypatch.setenv("HOME", str(tree))
    assert names(sources.fetch("*.png", work)) == ["a.png", "b.png"]
    assert names(sources.fetch("2026-01/*.csv", work)) == ["e.csv"]
    assert names(sources.fetch("~/*.txt", work)) == ["c.txt"]  # and what was matched before is gone


def test_without_hard_links_files_are_copied(tree: Path, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*paths: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("os.link", refuse)
    found = sources.fetch(f"{tree}/*.txt", work)
    assert (found / "c.txt").read_text() == "c.txt"
    assert not (found / "c.txt").samefile(tree / "c.txt")


def test_a_file_that_vanishes_meanwhile_is_no_sample(tree: Path, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tree / "gone.png").symlink_to(tree / "nothing")  # broken: no file at all
    taken = globs.taken
    monkeypatch.setattr(globs, "taken", lambda *given: [*taken(*given), "moved.png"])
    assert names(sources.fetch(f"{tree}/*.png", work)) == ["a.png", "b.png"]


@pytest.mark.parametrize("name", ["x[1].csv", "x*.csv", "[raw]/a?.csv"])
@pytest.mark.parametrize("protocol", ["", "file://", "memory://"])
def test_a_name_as_it_is_written_is_no_glob(
    name: str, protocol: str, tmp_path: Path, memory: fsspec.AbstractFileSystem, work: Path
) -> None:
    for other in (name, "x1.csv", "r/a1.csv"):
        (tmp_path / other).parent.mkdir(exist_ok=True)
        (tmp_path / other).write_text(other)
        memory.pipe(f"{tmp_path}/{other}", other.encode())
    assert sources.fetch(f"{protocol}{tmp_path}/{name}", work).read_text() == name


@pytest.mark.parametrize("protocol", ["", "file://", "memory://"])
def test_a_folder_as_it_is_written_is_no_wildcard(
    protocol: str, tmp_path: Path, memory: fsspec.AbstractFileSystem, work: Path
) -> None:
    for name in ("[raw]/a.csv", "r/a.csv", "r/b.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
        memory.pipe(f"{tmp_path}/{name}", name.encode())
    found = sources.fetch(f"{protocol}{tmp_path}/[raw]/*.csv", work)
    assert [(name, (found / name).read_text()) for name in names(found)] == [("a.csv", "[raw]/a.csv")]
    with pytest.raises(DataError, match=r"/\[raw\]/b.csv'? does not exist"):
        sources.fetch(f"{protocol}{tmp_path}/[raw]/b.csv", work)


@pytest.mark.parametrize("protocol", ["", "file://", "memory://"])
def test_a_glob_that_matches_nothing(protocol: str, tree: Path, memory: fsspec.AbstractFileSystem, work: Path) -> None:
    memory.pipe(f"{tree}/a.png", b"a")
    for pattern in ("*.tif", "nowhere/*.png"):
        with pytest.raises(DataError) as caught:
            sources.fetch(f"{protocol}{tree}/{pattern}", work)
        assert re.match(r"source '?(\w+://)?/.*\.\w+'? matches no file", str(caught.value))
        assert f"{tree}/{pattern}" in str(caught.value)


def test_a_glob_does_not_climb(tree: Path, memory: fsspec.AbstractFileSystem, work: Path) -> None:
    with pytest.raises(DataError, match="must name files below its folder, without .."):
        sources.fetch(f"{tree}/*/../a.png", work)


def test_names_of_an_object_store_do_not_climb(memory: fsspec.AbstractFileSystem, work: Path) -> None:
    memory.store["/set/../../climbed.txt"] = memory.open("/x", "wb")
    for source in ("memory://set", "memory://set/**"):
        with pytest.raises(DataError, match="without .., got '../../climbed.txt'"):
            sources.fetch(source, work)


# --- manifests behind a URL


def put(memory: fsspec.AbstractFileSystem, manifest: str, files: list[str]) -> None:
    memory.pipe("/set/list/m.csv", manifest.encode())
    for name in files:
        memory.pipe(f"/set/{name}", name.encode())


def test_a_manifest_brings_its_files(memory: fsspec.AbstractFileSystem, work: Path) -> None:
    manifest = "\ufeffpath, label,mask\nx/a.png,1,masks/a.png\nb b.png,0,\nx/gone.png,0,\n"
    put(memory, manifest, ["list/x/a.png", "list/b b.png", "list/masks/a.png", "list/other.png"])
    found = sources.fetch("memory://set/list/m.csv", work)
    assert found.name == "m.csv"
    assert names(found.parent) == ["b b.png", "m.csv", "masks/a.png", "x/a.png"]
    assert (found.parent / "x/a.png").read_text() == "list/x/a.png"


def test_files_may_lie_beside_the_manifests_folder(memory: fsspec.AbstractFileSystem, work: Path) -> None:
    put(memory, "path\nx/a.png\nx/b.png\n", ["x/a.png", "list/x/b.png", "x/b.png"])
    found = sources.fetch("memory://set/list/m.csv", work)
    assert (found.parent / "x/a.png").read_text() == "x/a.png"
    assert (found.parent / "x/b.png").read_text() == "list/x/b.png"  # as for a local manifest, its own folder first


def test_a_parquet_manifest_in_parts(
    memory: fsspec.AbstractFileSystem, tmp_path: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "ROWS", 2)
    paths = ["a.png", "b.png", "c.png", None, "e.png"]
    pd.DataFrame({"label": 0, "path": paths}).to_parquet(tmp_path / "m.parquet")
    memory.pipe("/m.parquet", (tmp_path / "m.parquet").read_bytes())
    for name in paths:
        memory.pipe(f"/{name}", b"x")
    found = sources.fetch("memory://m.parquet", work)
    assert names(found.parent) == ["a.png", "b.png", "c.png", "e.png", "m.parquet"]


def test_a_manifest_over_the_web(web: str, tmp_path: Path, work: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set/m.csv").write_text("path\na a.png\nb.png\nc.png\n")
    (tmp_path / "set/a a.png").write_text("a")
    (tmp_path / "b.png").write_text("b")
    found = sources.fetch(f"http://{web}/set/m.csv?token=abc", work)
    assert names(found.parent) == ["a a.png", "b.png", "m.csv"]


@pytest.mark.parametrize(
    "table",
    [
        "path,width\n/var/log/a,1\n/var/log/b,2\n",
        "path,width\nx/gone.png,1\n",
        "path,width\n3,1\n,2\n",
        "path,width\n../list/near.png,1\n",
        "width;path\n1;near.png\n",
        "width\n1\n",
        "path\n",
        "",
        'path,width\n"unclosed,1\n',
    ],
)
def test_a_table_with_a_column_path_is_a_table(table: str, memory: fsspec.AbstractFileSystem, work: Path) -> None:
    put(memory, table, ["list/near.png"])
    found = sources.fetch("memory://set/list/m.csv", work)
    assert names(found.parent) == ["m.csv"]
    assert found.read_text() == table


def test_a_manifest_fetches_nothing_from_outside(memory: fsspec.AbstractFileSystem, work: Path) -> None:
    put(memory, "path\nnear.png\n../../up.png\n/set/root.png\nm.csv\n", ["list/near.png", "root.png"])
    memory.pipe("/up.png", b"up")
    found = sources.fetch("memory://set/list/m.csv", work)
    assert names(work) == ["download/m.csv", "download/near.png"]
    assert found.read_text().startswith("path\nnear.png")
