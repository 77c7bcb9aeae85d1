"""Sinks: rows come once however often they are delivered, all or nothing; each fault is a sentence without secrets."""

import http.server
import json
import logging
import socket
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem
from sqlalchemy import text

from pipeline import database as db
from pipeline import sinks
from pipeline.errors import DeliveryError, ParamsError, RegistryError
from pipeline.sections import build
from pipeline.sinks import sql as sql_sink
from pipeline.sinks import webhook
from pipeline.sinks.parquet import Parquet
from pipeline.sinks.sql import Sql
from pipeline.sinks.webhook import Webhook
from pipeline.tables import find

Report = dict[str, Any]


def batch(line: Path, name: str = "0123456789ab-v3", rows: int = 10, because: bool = True) -> tuple[Path, Report]:
    """A scored batch in the folder of a line: the last row is an alarm, the one before it for review."""
    folder = line / "scores" / name
    folder.mkdir(parents=True)
    score = np.linspace(0, 1, rows).astype(np.float32)
    decision = ["accept"] * (rows - 2) + ["review", "reject"]
    frame = pd.DataFrame({"id": [f"part/{i}" for i in range(rows)], "score": score, "p_value": 1 - 0.9 * score})
    frame["decision"] = decision
    if because:
        frame["because"] = [""] * (rows - 1) + ["width = 9 is high"]
    frame = frame.assign(model_name="parts", model_version=3, data_hash="0123456789abcdef")
    table = pa.Table.from_pandas(frame, preserve_index=False)
    pq.write_table(table, folder / "scores.parquet", row_group_size=3)
    report = {
        "name": "parts",
        "version": 3,
        "batch": name,
        "samples": rows,
        "decisions": {"accept": rows - 2, "review": 1, "reject": 1},
        "data_hash": "0123456789abcdef",
        "quarantined": 2,
        "failed": [],
        "alarm_rate": 1 / rows,
        "promised_rate": 0.01,
        "promise": "alarm above 0.9: at most 1 % false alarms",
        "started": "2026-03-01T12:00:00+00:00",
        "folder": str(folder),
    }
    return folder / "scores.parquet", report


@pytest.mark.parametrize("kind", sinks.TABLE)
def test_every_sink_is_built_from_params(kind: str) -> None:
    options = {"to": "out"} if kind == "parquet" else {}
    sink = build(find(sinks, kind, "score.sinks.0.kind"), options, "score")
    assert callable(sink.deliver)


@pytest.mark.parametrize(
    ("cls", "options", "sentence"),
    [
        (Parquet, {}, "score.sinks.0.to is required and missing"),
        (Parquet, {"to": "sftp://me:hush@host/x"}, "to of the sink parquet must not hold a password"),
        (Sql, {"table": "scores; drop"}, "score.sinks.0.table"),
        (Webhook, {"decisions": []}, "score.sinks.0.decisions"),
        (Webhook, {"decisions": ["alarm"]}, "score.sinks.0.decisions.0"),
        (Webhook, {"most": -1}, "score.sinks.0.most"),
        (Webhook, {"url": "http://host"}, "score.sinks.0.url is not a known key"),
    ],
)
def test_options_that_make_no_sense(cls: type, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ParamsError) as caught:
        build(cls, options, "score.sinks.0")
    assert sentence in str(caught.value)
    assert "hush" not in str(caught.value)


# --- Parquet


@pytest.fixture
def memory() -> Iterator[fsspec.AbstractFileSystem]:
    files = fsspec.filesystem("memory")
    yield files
    files.store.clear()
    files.pseudo_dirs[:] = [""]


def test_batches_become_one_data_set(tmp_path: Path) -> None:
    for name in ("aaaaaaaaaaaa-v3", "111111111111-v3"):
        assert "wrote the scores to" in Parquet("all").deliver(*batch(tmp_path, name))
    found = pd.read_parquet(tmp_path / "all")  # relative: seen from the line's folder
    assert found.groupby("batch", observed=True)["id"].nunique().to_dict() == {
        "111111111111-v3": 10,
        "aaaaaaaaaaaa-v3": 10,
    }
    assert set(found["name"]) == {"parts"}
    (tmp_path / "all/name=parts/batch=111111111111-v3/.scores.parquet.partial-x").write_text("half a file")
    whole = pyarrow.dataset.dataset(tmp_path / "all", partitioning="hive")
    assert whole.count_rows(filter=pyarrow.dataset.field("batch") == "111111111111-v3") == 10


@pytest.mark.parametrize("protocol", ["", "file://", "memory://"])
def test_a_batch_that_comes_again(protocol: str, tmp_path: Path, memory: fsspec.AbstractFileSystem) -> None:
    scores, report = batch(tmp_path / "line")
    sink = Parquet(f"{protocol}{tmp_path}/all/")
    files = memory if protocol == "memory://" else LocalFileSystem()
    folder = f"{tmp_path}/all/name=parts/batch=0123456789ab-v3"
    sink.deliver(scores, report)
    assert files.cat_file(f"{folder}/scores.parquet") == scores.read_bytes()
    assert sink.deliver(scores, report).endswith("already")
    files.pipe_file(f"{folder}/scores.parquet", scores.read_bytes()[::-1])  # as long, but other bytes
    files.pipe_file(f"{folder}/.scores.parquet.partial-0", b"left by a killed run")
    assert sink.deliver(scores, report) == f"wrote the scores to {protocol}{folder}/scores.parquet"
    assert files.cat_file(f"{folder}/scores.parquet") == scores.read_bytes()
    assert [name.rpartition("/")[2] for name in files.find(folder)] == ["scores.parquet"]


def test_names_that_are_no_file_names(tmp_path: Path) -> None:
    scores, report = batch(tmp_path)
    Parquet("all").deliver(scores, report | {"name": "a/b c=ü"})
    assert set(pd.read_parquet(tmp_path / "all")["name"]) == {"a/b c=ü"}


@pytest.mark.parametrize("protocol", ["file://", "memory://"])
@pytest.mark.parametrize("before", [False, True])
def test_a_fault_before_the_rename_leaves_what_was_there(
    protocol: str, before: bool, tmp_path: Path, memory: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores, report = batch(tmp_path / "line")
    files = memory if protocol == "memory://" else LocalFileSystem()
    folder = f"{tmp_path}/all/name=parts/batch=0123456789ab-v3"
    if before:
        files.makedirs(folder)
        files.pipe_file(f"{folder}/scores.parquet", b"the last one")

    def fail(self: object, path: str, *more: object) -> None:
        assert files.cat_file(path) == scores.read_bytes()
        raise KeyboardInterrupt if before else OSError(28, "No space left on device")

    monkeypatch.setattr(type(files), "mv", fail)
    with pytest.raises(KeyboardInterrupt if before else DeliveryError):
        Parquet(f"{protocol}{tmp_path}/all").deliver(scores, report)
    assert {name: files.cat_file(name) for name in files.find(folder)} == (
        {f"{folder}/scores.parquet": b"the last one"} if before else {}
    )


def test_a_file_that_arrives_in_half_is_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores, report = batch(tmp_path / "line")
    monkeypatch.setattr(LocalFileSystem, "put_file", lambda self, ours, there: Path(there).write_bytes(b"half"))
    with pytest.raises(DeliveryError, match=rf"/scores.parquet: 4 of {scores.stat().st_size} bytes arrived$"):
        Parquet(str(tmp_path / "all")).deliver(scores, report)
    assert not [path for path in (tmp_path / "all").rglob("*") if path.is_file()]


def test_a_file_system_that_does_not_rename_onto_a_file(
    tmp_path: Path, memory: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores, report = batch(tmp_path)
    path = "/all/name=parts/batch=0123456789ab-v3/scores.parquet"
    memory.pipe_file(path, b"the last one")
    move = type(memory).mv

    def refuse(self: fsspec.AbstractFileSystem, path1: str, path2: str) -> None:
        if self.exists(path2):
            raise FileExistsError(path2)
        move(self, path1, path2)

    monkeypatch.setattr(type(memory), "mv", refuse)
    Parquet("memory://all").deliver(scores, report)
    assert memory.cat_file(path) == scores.read_bytes()


@pytest.mark.parametrize(
    ("to", "sentence"),
    [
        ("ftpp://host/x?signature=hush", r"^the scores cannot be written to ftpp://host/x/name=parts/.*: Protocol not"),
        ("http://127.0.0.1:9/x?signature=hush", r"^the scores cannot be written to http://127.0.0.1:9/x/name=parts/"),
        ("/dev/null/x", r"^the scores cannot be written to /dev/null/x/name=parts/.*Not a directory"),
    ],
)
def test_places_that_cannot_be_written(to: str, sentence: str, tmp_path: Path) -> None:
    scores, report = batch(tmp_path)
    with pytest.raises(DeliveryError, match=sentence) as caught:
        Parquet(to).deliver(scores, report)
    assert "hush" not in "".join(traceback.format_exception(caught.value))
    assert "\n" not in str(caught.value)


# --- SQL


@pytest.fixture(params=["sqlite", "postgresql"])
def either(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty database of each kind, in turn."""
    url = f"sqlite:///{tmp_path}/assay.db" if request.param == "sqlite" else request.getfixturevalue("postgres")()
    monkeypatch.setenv(db.URL, url)
    return url


def ask(query: str) -> list[tuple[Any, ...]]:
    with db.transaction() as connection:
        return [tuple(row) for row in connection.execute(text(query))]


def test_rows_come_once_however_often(either: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql_sink, "ROWS", 4)  # several parts
    given = batch(tmp_path)
    assert [Sql("alarms").deliver(*given) for _ in range(2)] == ["wrote 10 rows to the table alarms"] * 2
    (row,) = ask("SELECT * FROM alarms WHERE decision = 'reject'")
    assert row[:8] == ("parts", 3, "part/9", "0123456789ab-v3", 1.0, pytest.approx(0.1), "reject", "width = 9 is high")
    assert str(row[8]).startswith("2026-03-01 12:00:00")
    assert ask("SELECT count(*), count(DISTINCT id), count(because) FROM alarms") == [(10, 10, 1)]
    scores = pd.read_parquet(given[0])
    assert ask("SELECT id, score FROM alarms ORDER BY id") == list(zip(scores["id"], scores["score"], strict=True))


def test_the_last_score_of_a_version_stays(either: str, tmp_path: Path) -> None:
    scores, report = batch(tmp_path)
    Sql().deliver(scores, report)
    changed = pd.read_parquet(scores).assign(decision="accept").drop(columns="because")
    changed.to_parquet(tmp_path / "changed.parquet")
    Sql().deliver(tmp_path / "changed.parquet", report | {"batch": "later"})
    assert ask("SELECT DISTINCT batch, decision, because FROM scores") == [("later", "accept", None)]
    Sql().deliver(scores, report | {"version": 4})
    Sql().deliver(scores, report | {"name": "bolts"})
    query = "SELECT model_name, model_version, count(*) FROM scores GROUP BY model_name, model_version ORDER BY 1, 2"
    assert ask(query) == [("bolts", 3, 10), ("parts", 3, 10), ("parts", 4, 10)]


def test_a_batch_comes_whole_or_not_at_all(either: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql_sink, "ROWS", 4)
    scores, report = batch(tmp_path)
    frame = pd.read_parquet(scores)
    frame.loc[9, "decision"] = None  # refused by the database, in the last part
    frame.to_parquet(scores)
    with pytest.raises(RegistryError, match=r"^the database .* failed: .*(NOT NULL|not-null)"):
        Sql().deliver(scores, report)
    Sql().deliver(*batch(tmp_path / "other", rows=3))
    assert ask("SELECT count(*) FROM scores") == [(3,)]


def test_rows_without_an_id_of_their_own_do_not_replace_those_of_other_batches(either: str, tmp_path: Path) -> None:
    scores, report = batch(tmp_path, rows=3)
    frame = pd.read_parquet(scores).assign(id=["row-0000001", "noon.csv/row-0000002", "arrow-0000003"])
    frame.to_parquet(scores, index=False)
    for data in ("a" * 64, "b" * 64, "b" * 64):
        Sql().deliver(scores, report | {"data_hash": data})
    ids = [f"{start * 12}/{name}" for start in "ab" for name in ("noon.csv/row-0000002", "row-0000001")]
    assert ask("SELECT id FROM scores ORDER BY id") == [(name,) for name in sorted([*ids, "arrow-0000003"])]


def test_a_batch_without_rows(either: str, tmp_path: Path) -> None:
    scores, report = batch(tmp_path)
    pq.write_table(pq.read_table(scores)[:0], scores)
    assert Sql().deliver(scores, report) == "wrote 0 rows to the table scores"
    assert ask("SELECT count(*) FROM scores") == [(0,)]


OURS = (
    "model_name TEXT NOT NULL, model_version INTEGER NOT NULL, id TEXT NOT NULL, batch TEXT, score DOUBLE PRECISION,"
    " p_value DOUBLE PRECISION, decision TEXT, because TEXT, scored_at TIMESTAMP"
)


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        (
            "id INTEGER PRIMARY KEY, score REAL",
            "but model_name is missing; model_version is missing; batch is missing; p_value is missing; ",
        ),
        (f"{OURS}, PRIMARY KEY (id)", "but its key is (id) and not (model_name, model_version, id): name another one"),
        (OURS, "but its key is (none) and not (model_name, model_version, id)"),
        (f"{OURS}, shift TEXT NOT NULL, UNIQUE (id, model_version, model_name)", "but shift needs a value: name"),
    ],
)
def test_a_table_of_somebody_else(columns: str, sentence: str, either: str, tmp_path: Path) -> None:
    with db.transaction() as connection:
        connection.execute(text(f"CREATE TABLE scores ({columns})"))
    with pytest.raises(DeliveryError, match=r"^the table scores must have the columns model_name, ") as caught:
        Sql().deliver(*batch(tmp_path))
    assert sentence in str(caught.value)
    assert ask("SELECT count(*) FROM scores") == [(0,)]


def test_a_table_with_more_columns_is_filled(either: str, tmp_path: Path) -> None:
    with db.transaction() as connection:
        more = "seen_by TEXT, shift TEXT NOT NULL DEFAULT 'night', UNIQUE (id, model_version, model_name)"
        connection.execute(text(f"CREATE TABLE scores ({OURS}, {more})"))
    Sql().deliver(*batch(tmp_path))
    Sql().deliver(*batch(tmp_path / "again"))
    assert ask("SELECT count(*), count(seen_by), max(shift) FROM scores") == [(10, 0, "night")]


def test_a_database_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(db.URL, "postgresql+psycopg://me:hush-hush@127.0.0.1:9/x")
    with pytest.raises(RegistryError, match=r"^the database postgresql\+psycopg://me:\*\*\*@127.0.0.1:9/x failed: "):
        Sql().deliver(*batch(tmp_path))


# --- webhook


class Listener(http.server.ThreadingHTTPServer):
    """Answers what `answers` says, in turn, and then 200; keeps what came."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[tuple[int, dict[str, str]]] = []
        self.came: list[tuple[str, dict[str, str], dict[str, Any]]] = []


class Handler(http.server.BaseHTTPRequestHandler):
    server: Listener

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.came.append((self.path, dict(self.headers), body))
        status, headers = self.server.answers.pop(0) if self.server.answers else (200, {})
        if status == 0:  # hang up without a word
            self.close_connection = True
            return
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    monkeypatch.setattr(webhook, "BACKOFF", 0.005)
    with Listener() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setenv(webhook.URL, f"http://me:p%40ss@127.0.0.1:{server.server_port}/hook/hush?token=hush-hush")
        yield server
        server.shutdown()
        thread.join()


def test_an_alarm_is_told(listener: Listener, tmp_path: Path) -> None:
    said = Webhook().deliver(*batch(tmp_path))
    assert said == f"sent 1 of 1 samples to reject to http://127.0.0.1:{listener.server_port}"
    ((path, headers, body),) = listener.came
    assert path == "/hook/hush?token=hush-hush"
    assert headers["Idempotency-Key"] == "parts/0123456789ab-v3"
    assert headers["Content-Type"] == "application/json"
    assert headers["Authorization"] == "Basic bWU6cEBzcw=="  # me:p@ss
    assert body == {
        "name": "parts",
        "version": 3,
        "batch": "0123456789ab-v3",
        "samples": 10,
        "decisions": {"accept": 8, "review": 1, "reject": 1},
        "quarantined": 2,
        "failed_shards": 0,
        "alarm_rate": 0.1,
        "promised_rate": 0.01,
        "promise": "alarm above 0.9: at most 1 % false alarms",
        "text": "parts, version 3: 1 of 10 samples to reject in batch 0123456789ab-v3",
        "rows": [
            {
                "id": "part/9",
                "score": 1.0,
                "p_value": pytest.approx(0.1),
                "decision": "reject",
                "because": "width = 9 is high",
            }
        ],
        "rows_left_out": 0,
    }


def test_the_worst_come_first(listener: Listener, tmp_path: Path) -> None:
    scores, report = batch(tmp_path, rows=20, because=False)
    order = np.random.default_rng(0).permutation(20)
    pq.write_table(pq.read_table(scores).take(order), scores, row_group_size=3)
    Webhook(["accept", "review"], most=4).deliver(scores, report)
    ((_, _, body),) = listener.came
    assert [row["id"] for row in body["rows"]] == ["part/18", "part/17", "part/16", "part/15"]
    assert (body["rows"][0]["decision"], body["rows_left_out"]) == ("review", 15)
    Webhook(["reject"], most=0).deliver(scores, report)
    assert (listener.came[1][2]["rows"], listener.came[1][2]["rows_left_out"]) == ([], 1)


def test_no_alarm_no_request(listener: Listener, tmp_path: Path) -> None:
    scores, report = batch(tmp_path)
    report["decisions"] = {"accept": 9, "review": 1, "reject": 0}
    assert Webhook().deliver(scores, report).startswith("no sample to reject, nothing sent to http://127.0.0.1:")
    assert listener.came == []


@pytest.mark.parametrize("answers", [[500, 503], [429, 502], [0, 0], [0, 599, 429, 504]])
def test_a_receiver_that_recovers(answers: list[int], listener: Listener, tmp_path: Path) -> None:
    listener.answers = [(status, {}) for status in answers]
    Webhook().deliver(*batch(tmp_path))
    assert len(listener.came) == len(answers) + 1
    assert len({headers["Idempotency-Key"] for _, headers, _ in listener.came}) == 1
    assert all(body == listener.came[0][2] for _, _, body in listener.came)


def test_a_receiver_that_stays_broken(listener: Listener, tmp_path: Path) -> None:
    listener.answers = [(503, {"Retry-After": "0"})] * 9
    with pytest.raises(DeliveryError, match=r"^the webhook at http://127.0.0.1:\d+ must answer 2xx, it answers 503"):
        Webhook(retries=2).deliver(*batch(tmp_path))
    assert len(listener.came) == 3


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        ((404, {}), "it answers 404 (Not Found)"),
        ((400, {}), "it answers 400 (Bad Request)"),
        ((302, {"Location": "http://127.0.0.1:9/elsewhere"}), "it answers 302 (Found)"),
        ((599, {}), "it answers 599"),
        ((499, {}), "it answers 499"),
    ],
)
def test_a_receiver_that_refuses(
    answer: tuple[int, dict[str, str]], sentence: str, listener: Listener, tmp_path: Path
) -> None:
    listener.answers = [answer]
    with pytest.raises(DeliveryError) as caught:
        Webhook(retries=0).deliver(*batch(tmp_path))
    assert str(caught.value).endswith(sentence)
    assert len(listener.came) == 1
    listener.answers = [answer]
    if answer[0] != 599:
        with pytest.raises(DeliveryError):
            Webhook().deliver(*batch(tmp_path / "again"))
        assert len(listener.came) == 2  # at once, whatever may be tried again


def test_a_batch_with_failed_shards_has_a_key_of_its_own(listener: Listener, tmp_path: Path) -> None:
    scores, report = batch(tmp_path)
    report |= {"name": "Teile für 1", "failed": [{"shard": 2, "error": "x"}, {"shard": 7, "error": "y"}]}
    Webhook().deliver(scores, report)
    ((_, headers, body),) = listener.came
    assert headers["Idempotency-Key"] == "Teile%20f%C3%BCr%201/0123456789ab-v3/without-2-7"
    assert body["failed_shards"] == 2


def test_nobody_listens_and_no_secret_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(webhook, "BACKOFF", 0.001)
    before = [list(logging.getLogger(name).filters) for name in webhook.TALKATIVE]
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        monkeypatch.setenv(webhook.URL, f"http://me:hush-hush@127.0.0.1:{port}/hook/hush?token=hush-hush")
        with caplog.at_level(logging.DEBUG), pytest.raises(DeliveryError) as caught:
            Webhook().deliver(*batch(tmp_path))
    assert str(caught.value) == (
        f"the webhook at http://127.0.0.1:{port} cannot be reached, tried 5 times: Connection refused"
    )
    told = "".join(traceback.format_exception(caught.value)) + caplog.text
    assert "hush" not in told
    assert [logging.getLogger(name).filters for name in webhook.TALKATIVE] == before


@pytest.mark.parametrize(
    ("url", "came"), [("", "nothing"), ("ftp://hush", "something else"), ("http://h:hush/", "something else")]
)
def test_without_an_address_even_a_quiet_batch_fails(
    url: str, came: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(webhook.URL, url)
    scores, report = batch(tmp_path)
    report["decisions"] = {"accept": 10, "review": 0, "reject": 0}
    with pytest.raises(DeliveryError, match=rf"needs an address http://... or https://... in .*, got {came}$"):
        Webhook().deliver(scores, report)
