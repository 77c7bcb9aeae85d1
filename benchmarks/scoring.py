"""Batch scoring as a plant leaves it alone: how fast, how much memory, what faults and a month do to it, when it warns.

    python -m benchmarks.scoring                # all but the faults and the large sizes
    python -m benchmarks.scoring --faults 50    # and 50 rounds of kill -9
    python -m benchmarks.scoring --full         # 100,000 images, 10,000,000 rows, a month of hourly batches
    python -m benchmarks.scoring --only images,tables,memory,workers,drift,month,faults

Every line is made here (synthetic pictures and numbers, a champion in a store of its own), so nothing else is needed.
Each measurement runs in a process of its own. It ends with 1 when a sample is lost or doubled, or a bound on false
alarms is broken; speeds are told, not judged.
"""

import argparse
import contextlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

PARTS = ("images", "tables", "memory", "workers", "drift", "month", "faults")
COLUMNS = [f"x{i}" for i in range(10)]
FOREST = "/".join(("table", "isolation_forest"))
PADIM = "/".join(("image", "padim"))
GAUSSIAN = "/".join(("image", "gaussian"))


# Lines


def made(line: Path, sections: dict[str, Any]) -> None:
    """Run the line's stages in this process, publish, promote."""
    from pipeline import params, promotion, publication
    from pipeline.files import write_json
    from pipeline.stages import augment, calibrate, evaluate, ingest, split, train

    (line / "params.yaml").write_text(yaml.safe_dump(sections, sort_keys=False), encoding="utf-8")
    (line / "dvc.lock").write_text("schema: '2.0'\n", encoding="utf-8")
    given = params.read(line / "params.yaml")
    with contextlib.chdir(line):
        for stage in (ingest, split, augment):
            stage.main()
        for name in given.candidates:
            for stage in (train, calibrate, evaluate):
                stage.main(name)
    receipt, _ = publication.publish(given, line)
    write_json(line / "reports/published.json", receipt)
    assert promotion.promote(given, line)["champion"] == 1


def sections(kind: str, source: str, candidate: dict[str, Any], **dataset: Any) -> dict[str, Any]:
    return {
        "root": ".",
        "dataset": {"source": source, "kind": kind, **dataset},
        "split": {"calibrate": 0.4, "test": 0.2, "seed": 0},
        "augment": {"kind": "none"},
        "candidates": {"only": candidate},
        "calibrate": {"alpha": 0.02 if kind == "image" else 0.01, "confidence": None},
        "promote": {"name": "bench", "against_champion": {"metric": "alarm_rate", "rule": "margin", "margin": -1.0}},
        "score": {"source": "incoming", "keep": "none"},
    }


def numbers(rows: int, seed: int) -> pd.DataFrame:
    return pd.DataFrame(np.random.default_rng(seed).normal(size=(rows, len(COLUMNS))), columns=COLUMNS)


def write_rows(path: Path, rows: int, seed: int = 1) -> None:
    """A Parquet file of numbers, written in pieces."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    writer = None
    for start in range(0, rows, 100_000):
        table = pa.Table.from_pandas(numbers(min(100_000, rows - start), seed + start), preserve_index=False)
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    writer.close()


def write_images(folder: Path, count: int, side: int, seed: int = 1) -> None:
    """Noisy stripes as PNG; beyond 2,000 of them the same pictures come again under other names."""
    from PIL import Image as Pil

    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    drawn = []
    for number in range(count):
        path = folder / f"{number:06d}.png"
        if number < 2000:
            grey = 120 + 40 * np.sin((x + y) * np.pi / 8 + rng.uniform(0, 6)) + rng.normal(0, 8, (side, side))
            Pil.fromarray(grey.clip(0, 255).astype(np.uint8)).convert("RGB").save(path, compress_level=1)
            drawn.append(path)
        else:
            os.link(drawn[number % 2000], path)


def table_line(line: Path) -> None:
    (line / "data/raw").mkdir(parents=True)
    numbers(4000, 0).to_csv(line / "data/raw/rows.csv", index=False)
    made(line, sections("table", "data/raw/rows.csv", {"detector": FOREST}))


def image_line(line: Path, side: int, candidate: dict[str, Any]) -> None:
    write_images(line / "data/raw", 130, side, seed=0)
    made(line, sections("image", "data/raw", candidate, size=[side, side]))


def scoring(line: Path, **options: Any) -> None:
    path = line / "params.yaml"
    given = yaml.safe_load(path.read_text(encoding="utf-8"))
    given["score"] |= options
    path.write_text(yaml.safe_dump(given, sort_keys=False), encoding="utf-8")


def score(line: Path) -> dict[str, Any]:
    """As the flow does it, on the task runner that params name; needs a server, see `flows.server.running`."""
    from flows import engines
    from pipeline import batch, params

    given = params.read(line / "params.yaml")
    return batch.score_batch(given, line, None, engines.engine(given.score), engines.cores(given.score))


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# Measurements; each is called in a process of its own


def images(work: Path, *_: str) -> dict[str, Any]:
    """Scoring of 256 pictures of 256 x 256 against the bare backbone on pictures in memory, at the same batch size; the
    better of two repeats of each, in turn."""
    import timm
    import torch

    line = work / "line"
    name = "wide_resnet50_2"
    image_line(line, 256, {"detector": PADIM, "backbone": {"name": name, "weights": "none"}, "seed": 0})
    write_images(line / "incoming", 256, 256)
    network = timm.create_model(name, pretrained=False, features_only=True, out_indices=(1, 2, 3)).eval()
    batch = torch.randn(32, 3, 256, 256)
    rates: dict[str, list[float]] = {"bare": [], "assay": []}
    with torch.inference_mode():
        network(batch)
        for repeat in range(2):
            started = time.perf_counter()
            for _ in range(3):
                network(batch)
            rates["bare"].append(96 / (time.perf_counter() - started))
            os.utime(line / "incoming/000000.png")
            (line / "incoming/000000.png").write_bytes((line / f"incoming/{repeat + 1:06d}.png").read_bytes())
            started = time.perf_counter()
            report = score(line)
            assert report["samples"] == 256
            rates["assay"].append(256 / (time.perf_counter() - started))
    best = {key: max(values) for key, values in rates.items()}
    return {
        "backbone": name,
        "bare_images_per_s": round(best["bare"], 2),
        "images_per_s": round(best["assay"], 2),
        "share": round(best["assay"] / best["bare"], 3),
    }


def tables(work: Path, *_: str) -> dict[str, Any]:
    """Scoring of 1,000,000 rows of 10 columns from a Parquet file against scikit-learn's forest on rows in memory."""
    from sklearn.ensemble import IsolationForest

    from pipeline import params, shards
    from pipeline.params import Params

    line = work / "line"
    table_line(line)
    rows = 1_000_000
    write_rows(line / "incoming.parquet", rows)
    took = {}
    for count in (1, 2):
        scoring(line, source="incoming.parquet", workers=count)
        started = time.perf_counter()
        report = score(line)
        took[count] = time.perf_counter() - started
        assert report["samples"] == rows
        Path(report["folder"]).rename(line / f"scored-{count}")
    given: Params = params.read(line / "params.yaml")
    trees = given.detector("only").trees  # type: ignore[attr-defined]
    bare = IsolationForest(n_estimators=trees, random_state=0).fit(numbers(2000, 0).to_numpy())
    some = numbers(200_000, 5).to_numpy()
    started = time.perf_counter()
    bare.score_samples(some)
    sklearn = 200_000 / (time.perf_counter() - started)
    (place,) = {p.parent for p in (line / ".assay/models").rglob("detector.json")}
    model = shards.loaded(str(place), str(place.parent / "calibration.json"), "bench", None)
    from pipeline.protocols import Batch

    frame = numbers(200_000, 5)
    ours = Batch([str(i) for i in range(len(frame))], frame, np.zeros(len(frame), np.int8))
    started = time.perf_counter()
    model.stored.detector.score(ours)
    own = 200_000 / (time.perf_counter() - started)
    return {
        "rows": rows,
        "trees": trees,
        "sklearn_rows_per_s": round(sklearn),
        "detector_rows_per_s": round(own),
        "rows_per_s": {f"{count} threads": round(rows / seconds) for count, seconds in took.items()},
        "share_of_sklearn": {f"{count} threads": round(rows / seconds / sklearn, 2) for count, seconds in took.items()},
    }


def memory(work: Path, kind: str, count: str, line: str) -> dict[str, Any]:
    """The peak of a process that scores `count` samples."""
    report = score(Path(line))
    assert report["samples"] == int(count), report["samples"]
    return {"kind": kind, "samples": int(count), "peak_mb": round(peak_mb()), "seconds": round(report["seconds"], 1)}


def workers(work: Path, *_: str) -> dict[str, Any]:
    """A local Dask cluster of one worker and of two, one thread each: with all of the machine's cores, and with workers
    that get four tenths of a core each, as if on slow machines of their own, so that the two cores do not bind."""
    from flows import engines
    from pipeline import batch, params

    line = work / "line"
    table_line(line)
    write_rows(line / "incoming.parquet", 500_000)
    took: dict[str, list[float]] = {"as fast as they can": [], "at 0.4 cores each": []}
    from distributed import Client, LocalCluster

    for how, seconds in took.items():
        for count in (1, 2):
            with LocalCluster(n_workers=count, threads_per_worker=1, dashboard_address=None) as cluster:
                address = cluster.scheduler_address
                scoring(line, source="incoming.parquet", runner="dask", workers=count, address=address)
                given = params.read(line / "params.yaml")
                inner = engines.engine(given.score)
                with Client(cluster) as client:
                    pids = list(client.run(os.getpid).values())

                def timed(jobs: list[Any], inner: Any = inner, spent: list[float] = seconds) -> None:
                    inner(jobs[:2])  # imports and the model
                    with slowed(pids if how.startswith("at") else []):  # noqa: B023
                        started = time.perf_counter()
                        inner(jobs[2:])
                        spent.append(time.perf_counter() - started)

                report = batch.score_batch(given, line, None, timed, 1)
                assert (report["samples"], report["failed"]) == (500_000, [])
                Path(report["folder"]).rename(line / f"scored-{how}-{count}")
    return {
        how: {"seconds": [round(one, 1), round(two, 1)], "times": round(one / two, 2)}
        for how, (one, two) in took.items()
    }


@contextlib.contextmanager
def slowed(pids: list[int], share: float = 0.4, period: float = 0.05) -> Iterator[None]:
    """Let processes run for `share` of the time only."""
    done = threading.Event()

    def turns() -> None:
        while not done.is_set():
            for signal_, wait in ((signal.SIGCONT, share * period), (signal.SIGSTOP, (1 - share) * period)):
                for pid in pids:
                    os.kill(pid, signal_)
                time.sleep(wait)
        for pid in pids:
            os.kill(pid, signal.SIGCONT)

    thread = threading.Thread(target=turns)
    if pids:
        thread.start()
    try:
        yield
    finally:
        done.set()
        if pids:
            thread.join()


def month(work: Path, runs: str, *_: str) -> dict[str, Any]:
    """Hourly batches of 100 rows, one after the other in one process, monitoring included."""
    import psutil

    from pipeline import params
    from pipeline.monitoring import record

    line = work / "line"
    table_line(line)
    scoring(line, source="incoming.parquet")
    process, seen = psutil.Process(), []
    for hour in range(int(runs)):
        numbers(100, 10_000 + hour).to_parquet(line / "incoming.parquet", index=False)
        started = time.perf_counter()
        report = score(line)
        record.record(params.read(line / "params.yaml"), report)
        seen.append((time.perf_counter() - started, process.memory_info().rss / 2**20, process.num_fds()))
    assert len(list((line / "scores").iterdir())) == int(runs)
    tenth = max(1, int(runs) // 10)
    first, last = np.array(seen[tenth : 2 * tenth]), np.array(seen[-tenth:])
    return {
        "runs": int(runs),
        "seconds_a_run": [round(float(np.median(part[:, 0])), 3) for part in (first, last)],
        "rss_mb": [round(float(np.median(part[:, 1])), 1) for part in (first, last)],
        "file_handles": [int(np.median(part[:, 2])) for part in (first, last)],
    }


def drift(_: Path, *__: str) -> dict[str, Any]:
    """False alarms on 1,000 clean streams of 1,000 scores at threshold 100, and how soon a shift by one standard
    deviation is found. The bound is broken when even the lower end of the exact 95 % interval lies above 1 %."""
    from pipeline.monitoring import simulation

    clean = {normals: simulation.false_alarms(1000, 1000, normals) for normals in (100, 1000)}
    late = {after: simulation.delays(1000, after, 1000) for after in (0, 1000)}
    return {
        "false_alarms": {f"{normals} normals": found for normals, found in clean.items()},
        "bound_broken": any(found["low"] > 0.01 for found in clean.values()),
        "scores_until_a_shift_is_found": {f"after {after} clean ones": found for after, found in late.items()},
    }


KILLED = """
import sys
from pathlib import Path
from pipeline import batch, params
line = Path(sys.argv[1])
batch.score_batch(params.read(line / "params.yaml"), line)
"""


def faults(work: Path, rounds: str, *_: str) -> dict[str, Any]:
    """Kill -9 at a random moment of a run that scores 2,000 rows in 40 shards, run it again; is each row there once?"""
    from pipeline import batch, params

    line = work / "line"
    table_line(line)
    scoring(line, source="incoming.parquet", shard=50)
    rng, killed, worst = random.Random(0), 0, 0
    started = time.perf_counter()
    spent = 4.0
    for number in range(int(rounds)):
        numbers(2000, 50_000 + number).to_parquet(line / "incoming.parquet", index=False)
        again = 0
        while True:
            begun = time.perf_counter()
            process = subprocess.Popen([sys.executable, "-c", KILLED, str(line)], stderr=subprocess.DEVNULL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(rng.uniform(0.0, spent) if again < 3 else None)
            if process.poll() is not None:
                break
            process.send_signal(signal.SIGKILL)
            process.wait()
            killed, again = killed + 1, again + 1
        spent = max(spent, time.perf_counter() - begun) if again == 0 else spent
        worst = max(worst, again)
        assert process.returncode == 0
        report = batch.score_batch(params.read(line / "params.yaml"), line)
        rows = pd.read_parquet(Path(report["folder"]) / "scores.parquet")
        if len(rows) != 2000 or rows["id"].nunique() != 2000 or report["failed"]:
            return {"rounds": number + 1, "lost_or_doubled": True}
    whole = len(list((line / "scores").iterdir())) == int(rounds)
    return {
        "rounds": int(rounds),
        "kills": killed,
        "most_kills_in_a_round": worst,
        "lost_or_doubled": not whole,
        "seconds": round(time.perf_counter() - started),
    }


# The command


def alone(name: str, *words: str) -> dict[str, Any]:
    """One measurement in a process of its own, with stores of its own."""
    with tempfile.TemporaryDirectory(prefix="assay-scoring-") as work:
        return step(name, Path(work), *words)


def step(name: str, work: Path, *words: str) -> dict[str, Any]:
    stores = {
        "MLFLOW_TRACKING_URI": f"sqlite:///{work}/mlflow.db",
        "ASSAY_DATABASE_URL": f"sqlite:///{work}/assay.db",
        "PREFECT_HOME": str(work / "prefect"),
    }
    command = [sys.executable, "-m", "benchmarks.scoring", "--step", name, str(work), *words]
    with (work / "log").open("w+") as log:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=log, text=True, env=os.environ | stores)
        if done.returncode:
            log.seek(0)
            raise SystemExit(f"{name} failed: {log.read()[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def prepared(work: Path, kind: str, *_: str) -> dict[str, Any]:
    line = work / "line"
    if kind == "table":
        table_line(line)
    else:
        image_line(line, 32, {"detector": GAUSSIAN, "backbone": "filterbank"})
    return {}


def all_memory(full: bool) -> list[dict[str, Any]]:
    counts = {"table": (1_000, 100_000, 1_000_000), "image": (1_000, 10_000)}
    if full:
        counts = {"table": (1_000, 1_000_000, 10_000_000), "image": (1_000, 100_000)}
    found = []
    for kind, sizes in counts.items():
        with tempfile.TemporaryDirectory(prefix="assay-scoring-") as place:
            work = Path(place)
            step("prepared", work, kind)
            for count in sizes:
                source = f"incoming-{count}" + (".parquet" if kind == "table" else "")
                if kind == "table":
                    write_rows(work / "line" / source, count)
                else:
                    write_images(work / "line" / source, count, 32)
                scoring(work / "line", source=source)
                found.append(step("memory", work, kind, str(count), str(work / "line")))
                print("memory", json.dumps(found[-1]), flush=True)
    return found


@contextlib.contextmanager
def served(wanted: bool) -> Iterator[None]:
    """A Prefect server for the flows of the block."""
    if not wanted:
        yield
        return
    from flows import server

    with server.running():
        yield


STEPS: dict[str, Callable[..., dict[str, Any]]] = {
    "images": images,
    "tables": tables,
    "memory": memory,
    "prepared": prepared,
    "workers": workers,
    "month": month,
    "drift": drift,
    "faults": faults,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faults", type=int, default=0, metavar="N", help="rounds of kill -9")
    parser.add_argument("--full", action="store_true", help="the large sizes, and all 720 runs of a month")
    parser.add_argument("--only", help=f"some of {','.join(PARTS)}")
    parser.add_argument("--step", nargs="+", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.step:
        name, work, *words = chosen.step
        with contextlib.redirect_stdout(sys.stderr), served(name not in ("prepared", "drift", "faults")):
            found = STEPS[name](Path(work), *words)
        print(json.dumps(found))
        return
    wanted = chosen.only.split(",") if chosen.only else [part for part in PARTS if part != "faults" or chosen.faults]
    broken = False
    for part in wanted:
        if part == "memory":
            all_memory(chosen.full)
            continue
        words = {"month": [str(720 if chosen.full else 72)], "faults": [str(chosen.faults or 5)]}.get(part, [])
        found = alone(part, *words)
        broken |= bool(found.get("lost_or_doubled") or found.get("bound_broken"))
        print(part, json.dumps(found), flush=True)
    if broken:
        sys.exit("a sample was lost or doubled, or a bound on false alarms is broken")


if __name__ == "__main__":
    main()
