"""How long the reports of a candidate and of a batch take for many test images, and what memory.

    python -m benchmarks.report                  # 2,000 images
    python -m benchmarks.report --images 200

The images are made here (noise with a bright blot in half of them, and its mask), the scores are drawn at random; the
report of the evaluation is written by the pipeline's own code, overlays included. Only the report is measured, HTML and
PDF, in a process of its own that starts with its imports. It ends with 1 above 30 s or 1 GB.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import yaml

SIDE = 128  # pixels of an image
DEFECTS = ("scratch", "stain", "hole")
SECONDS, MEGABYTES = 30.0, 1024.0
SECTIONS: dict[str, Any] = {
    "dataset": {"source": "raw", "kind": "image", "size": [SIDE, SIDE]},
    "split": {"calibrate": 0.3, "test": 0.3},
    "augment": {"kind": "none"},
    "candidates": {"made": {"detector": "/".join(("image", "gaussian"))}},
    "calibrate": {"alpha": 0.05, "confidence": 0.9, "review": 0.1},
    "promote": {"name": "made"},
    "score": {"source": "raw"},
}


@dataclass
class Drawn:
    """A stand-in for a detector: scores at random, higher for anomalies, heat where the image is bright."""

    learns_from: ClassVar[Literal["normals", "labels"]] = "normals"
    paper: ClassVar[str] = ""
    history_: list[dict[str, float]] = field(default_factory=list)

    def fit(self, train: Any) -> Self:
        return self

    def score(self, batch: Any) -> Any:
        from pipeline.protocols import Scores

        local = batch.x.mean(axis=1, dtype=np.float32) / 255
        return Scores(local[:, ::8, ::8].reshape(len(batch), -1).max(axis=1), local)


def made(line: Path, images: int) -> None:
    """What the stages leave of a candidate with `images` test images, and a scored batch of the same."""
    import pandas as pd
    from PIL import Image as Pil

    from pipeline import evaluation, params, threshold
    from pipeline.files import write_json
    from pipeline.plan import Plan
    from pipeline.samples import read_manifest

    rng = np.random.default_rng(0)
    for index in range(images):
        kind = "good" if index % 2 else DEFECTS[index // 2 % len(DEFECTS)]
        pixels = rng.integers(0, 160, (SIDE, SIDE), dtype=np.uint8)
        mask = np.zeros((SIDE, SIDE), np.uint8)
        if kind != "good":
            top, left = rng.integers(0, SIDE - 24, 2)
            mask[top : top + 24, left : left + 24] = 255
            pixels = np.where(mask > 0, np.uint8(rng.integers(150, 255)), pixels)
            path = line / f"raw/ground_truth/{kind}/{index:05d}_mask.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Pil.fromarray(mask).save(path, compress_level=1)
        path = line / f"raw/test/{kind}/{index:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Pil.fromarray(pixels).save(path, compress_level=1)
    (line / "params.yaml").write_text(yaml.safe_dump(SECTIONS), encoding="utf-8")
    given = params.read(line / "params.yaml")
    report, batch = line / "reports/candidates/made", line / "scores/made"
    for folder in (line / "models/made", line / "data/dataset", line / "data/quarantine", report, batch):
        folder.mkdir(parents=True)
    given.modality.ingest(line / "raw", line / "data/dataset", line / "data/quarantine")
    rows = read_manifest(line / "data/dataset")
    samples = given.modality.samples(rows)
    normals = np.float32(rng.uniform(0.5, 0.64, 2000))
    calibration = threshold.calibrate(Plan.read(SECTIONS["calibrate"]), threshold.Scored(normals), "made")
    write_json(line / "models/made.calibration.json", calibration.to_json())
    evaluation.evaluate(Drawn(), calibration, samples, given.modality, report)
    scores = pd.read_parquet(report / "scores.parquet").drop(columns=["label", "defect"])
    scores.to_parquet(batch / "scores.parquet", index=False)
    worst = scores[scores["decision"] == "reject"].nlargest(50, "score").index.to_numpy()
    pictures = []
    for some in samples[worst].batches(50):
        alarm = calibration.thresholds["alarm"]
        pictures = given.modality.draw(some, Drawn().score(some), float(alarm or 0), batch / "alarms")
    counts = {name: int((scores["decision"] == name).sum()) for name in ("accept", "review", "reject")}
    told = {"name": "made", "version": 1, "batch": "made", "samples": len(scores), "decisions": counts}
    told |= {"quarantined": 0, "reasons": {}, "failed": [], "shards": 1, "promised_rate": calibration.promise}
    told |= {"false_discovery_rate": None, "promise": calibration.says()}
    told |= {"pictures": [path.relative_to(batch).as_posix() for path in pictures]}
    write_json(batch / "report.json", told)


def measure(line: Path, what: str) -> dict[str, float]:
    """Make the report of the candidate or of the batch in `line`: seconds since this process began, peak MB, MB."""
    import pandas as pd
    import psutil

    from pipeline import params, threshold
    from pipeline.reports import batch, candidate, html, pdf, pictures
    from pipeline.reports.evaluated import Published

    if what == "candidate":
        document = candidate.build(params.read(line / "params.yaml"), line, "made", Published())
    else:
        folder = line / "scores/made"
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        calibration = threshold.read(line / "models/made.calibration.json")
        document = batch.build(batch.Scored(folder, report, calibration, None, pd.DataFrame()))
    built = time.perf_counter()
    ready = pictures.small(document)
    html.render(ready, line / "page.html")
    pdf.render(ready, line / "page.pdf")
    took = time.perf_counter() - built
    return {
        "seconds": round(time.time() - psutil.Process().create_time(), 2),
        "shown": round(took, 2),
        "peak_mb": peak_mb(),
        "html_mb": round((line / "page.html").stat().st_size / 2**20, 2),
        "pdf_mb": round((line / "page.pdf").stat().st_size / 2**20, 2),
    }


def peak_mb() -> int:
    """Peak resident memory of this process. getrusage would count what its parent held when it was started."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return round(int(next(row.split()[1] for row in status.splitlines() if row.startswith("VmHWM"))) / 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--measure", choices=("candidate", "batch"), help=argparse.SUPPRESS)
    parser.add_argument("--line", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.measure:
        print(json.dumps(measure(chosen.line, chosen.measure)))
        return
    slow = []
    with tempfile.TemporaryDirectory(prefix="assay-report-") as work:
        line = Path(work)
        made(line, chosen.images)
        for what in ("candidate", "batch"):
            command = [sys.executable, "-m", "benchmarks.report", "--measure", what, "--line", work]
            said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            found = json.loads(said.splitlines()[-1])
            print(
                f"{what} of {chosen.images:,} images: {found['seconds']:.1f} s (encoding and writing "
                f"{found['shown']:.1f} s), peak {found['peak_mb']} MB, HTML {found['html_mb']} MB, "
                f"PDF {found['pdf_mb']} MB",
                flush=True,
            )
            slow += [what] * (found["seconds"] > SECONDS or found["peak_mb"] > MEGABYTES)
    if slow:
        sys.exit(f"above {SECONDS:g} s or {MEGABYTES:g} MB: {', '.join(slow)}")


if __name__ == "__main__":
    main()
