"""The same batch on threads, processes, a local Dask and a local Ray cluster: the same bytes."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import PREFECT_API_URL

from pipeline import batch, params
from pipeline.errors import LineError, ParamsError
from pipeline.files import sha256
from tests import small_line
from tests.flows.conftest import LOOSE_SOCKETS, until

pytestmark = [
    *LOOSE_SOCKETS,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # Dask's and Ray's own
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def score(line: Path, **options: Any) -> tuple[dict[str, Any], str]:
    """The report and the hash of scores.parquet, after which nothing of it is left."""
    from flows import engines

    small_line.scoring(line, **options)
    given = params.read(line / "params.yaml")
    report = batch.score_batch(given, line, None, engines.engine(given.score), engines.cores(given.score))
    digest = sha256(Path(report["folder"]) / "scores.parquet")
    Path(report["folder"]).rename(line / f"scored-{given.score.runner}-{os.urandom(4).hex()}")
    return report, digest


@pytest.fixture
def cut(ready: Path, prefect: None) -> Path:
    small_line.scoring(ready, shard=5, workers=2)
    return ready


def test_every_engine_gives_the_same_bytes(cut: Path) -> None:
    """Threads, processes, Dask and Ray on clusters of their own, Dask on one that runs."""
    from distributed import LocalCluster

    first, digest = score(cut)
    assert (first["samples"], first["failed"]) == (25, [])
    for runner in ("processes", "dask", "ray"):
        report, same = score(cut, runner=runner)
        assert (runner, same, report["failed"]) == (runner, digest, [])
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster:
        report, same = score(cut, runner="dask", address=cluster.scheduler_address)
    assert (same, report["failed"]) == (digest, [])


@pytest.mark.parametrize("runner", ["dask", "ray"])
def test_an_address_where_nobody_answers_is_one_sentence(cut: Path, runner: str) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(LineError, match=f"nobody answers at score.address .*:{port}"):
        score(cut, runner=runner, address=f"tcp://127.0.0.1:{port}")
    with pytest.raises(ParamsError, match=r"score.address has no meaning with score.runner: threads"):
        score(cut, runner="threads", address="tcp://x:1")


def test_shards_that_fail_are_told_by_the_status(cut: Path) -> None:
    """The command as a person runs it; a row group of the batch is torn meanwhile."""
    command = [sys.executable, "-m", "flows.score", "--line", str(cut)]
    there = os.environ | {"PREFECT_API_URL": str(PREFECT_API_URL.value())}
    code = (
        "import sys; from pipeline.modalities.table import Table; from pipeline.errors import DataError\n"
        "ingest = Table.ingest\n"
        "def fails(self, source, *rest):\n"
        "    if '00003' in source.name: raise DataError('the lamp was off')\n"
        "    return ingest(self, source, *rest)\n"
        "Table.ingest = fails\n"
        "from flows import score; score.main(*sys.argv[1:])"
    )
    torn = subprocess.run(
        [sys.executable, "-c", code, *command[3:]], env=there, capture_output=True, text=True, timeout=200
    )
    assert torn.returncode == 3, torn.stderr
    assert "error: shard 3: the lamp was off" in torn.stderr
    assert "1 of 6 shards failed" in torn.stdout
    whole, _ = score(cut)
    assert (whole["samples"], whole["failed"]) == (25, [])


def test_two_scorers_on_one_batch_give_one_result(cut: Path) -> None:
    command = [sys.executable, "-m", "flows.score", "--line", str(cut)]
    there = os.environ | {"PREFECT_API_URL": str(PREFECT_API_URL.value())}
    both = [
        subprocess.Popen(command, env=there, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=200)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert all("25 samples" in one for one in said)
    assert len(list((cut / "scores").iterdir())) == 1
    until(lambda: not (cut / ".assay/batch").exists(), "the work folder to go")
