"""How long a line takes from a finished install to a scored batch, and what of that is the line's own overhead.

    python -m benchmarks.line [--line examples/wdbc] [--out FILE.jsonl]

Runs in a fresh copy of this checkout with an empty HOME: the whole line, `dvc repro` with nothing to do, the whole line
again. Prints the three times, then for each stage its wall time and how that divides into the stage's own work, the
interpreter's start and imports, and DVC (hashing, caching, its own start).
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[1]
SAID = re.compile(r"^(\S+) +([\d.]+) s\b")  # a stage's line in what the flow prints
TOOLS = {"validate": "Great Expectations", "publish": "MLflow"}  # stages whose work is a tool's, not a detector's


def copy(to: Path) -> Path:
    """A copy of what git tracks or would track, under git, as a stranger's clone."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).exists():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, to / name, follow_symlinks=False)
    subprocess.run(["git", "init", "--quiet"], cwd=to, check=True)
    shared = ROOT.parent / "shared"
    if shared.exists():
        (to.parent / "shared").symlink_to(shared)
    return to


def timed(command: list[str], folder: Path, env: dict[str, str]) -> tuple[float, list[tuple[float, str]]]:
    """Seconds that `command` took, and what it said, each line with its second. Ends the benchmark when it fails."""
    started = time.perf_counter()
    said = []
    with subprocess.Popen(
        command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            said.append((time.perf_counter() - started, line))
    if process.returncode:
        sys.exit(f"error: {' '.join(command)} failed\n{''.join(line for _, line in said)}")
    return time.perf_counter() - started, said


def stages(said: list[tuple[float, str]], timings: Path) -> list[dict[str, float | str]]:
    """One row per stage that ran: wall, work, start (interpreter and imports), dvc; all in seconds."""
    wall = {m[1]: float(m[2]) for _, line in said if (m := SAID.match(line))}
    rows = []
    for line in timings.read_text(encoding="utf-8").splitlines():
        own = json.loads(line)
        name = own["stage"]
        if name in wall:
            work, alive = own["seconds"], own["alive"]
            rows.append(
                {"stage": name, "wall": wall[name], "work": work, "start": alive - work, "dvc": wall[name] - alive}
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--line", default=".", help="the line's folder inside this checkout")
    parser.add_argument("--out", type=Path, help="append the figures as one JSON line to this file")
    chosen = parser.parse_args()
    with TemporaryDirectory(prefix="assay-line-") as place:
        checkout, home = copy(Path(place) / "checkout"), Path(place) / "home"
        home.mkdir()
        outside = ("MLFLOW_", "PREFECT_", "DVC_", "ASSAY_", "PYTHONDONTWRITEBYTECODE")
        env = {k: v for k, v in os.environ.items() if not k.startswith(outside)}
        path = os.pathsep.join([str(Path(sys.executable).parent), env["PATH"]])
        env |= {"HOME": str(home), "PYTHONPATH": str(checkout), "PATH": path, "PYTHONUNBUFFERED": "1"}
        line = [sys.executable, "-m", "flows.train", "--line", chosen.line]
        timed([sys.executable, "-m", "flows.prepare"], checkout, env)  # the end of the installation
        first, said = timed(line, checkout, env)
        rows = stages(said, checkout / chosen.line / ".assay/timings.jsonl")
        idle, _ = timed([sys.executable, "-m", "dvc", "repro"], checkout / chosen.line, env)
        again, _ = timed(line, checkout, env)
    print(f"line {chosen.line}, {os.cpu_count()} cores")
    print(f"whole line, first time      {first:6.1f} s")
    print(f"dvc repro, nothing to do    {idle:6.1f} s")
    print(f"whole line, nothing to do   {again:6.1f} s\n")
    print(f"{'stage':<22}{'wall':>7}{'work':>7}{'start':>7}{'dvc':>7}  s")
    for row in rows:
        tool = TOOLS.get(str(row["stage"]), "")
        print(f"{row['stage']:<22}" + "".join(f"{row[k]:7.1f}" for k in ("wall", "work", "start", "dvc")), tool)
    total = sum(float(row["wall"]) for row in rows)
    own = sum(float(row["work"]) for row in rows if row["stage"] not in TOOLS)
    tools = sum(float(row["work"]) for row in rows if row["stage"] in TOOLS)
    start = sum(float(row["start"]) for row in rows)
    print(f"\nof {total:.1f} s in stages (side by side, so more than the wall clock):")
    for name, seconds in (
        ("the work itself", own),
        ("Great Expectations and MLflow", tools),
        ("starting Python, importing", start),
        ("DVC", total - own - tools - start),
    ):
        print(f"  {name:<32}{seconds:6.1f} s  {seconds / total:4.0%}")
    ends = [(at, float(m[2])) for at, row in said if (m := SAID.match(row))]
    begun = min(at - wall for at, wall in ends)
    print(f"\nbefore the first stage (imports, Prefect's server)     {begun:5.1f} s of the wall clock")
    print(f"after the last (promotion, scoring, Prefect's end)     {first - max(at for at, _ in ends):5.1f} s")
    if chosen.out:
        figures = {"line": chosen.line, "first": first, "idle": idle, "again": again, "stages": rows}
        with chosen.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
