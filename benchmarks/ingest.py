"""What ingest takes per image: `python -m benchmarks.ingest [--images 10000] [--out FILE.jsonl]`.

The images (64 x 64 to 128 x 128, grey PNG and colour JPEG, one in ten with a mask) are made first; ingest then
runs in a process of its own, so that its peak memory is its own, Python and libraries included.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.parts.progress import tracked

CHILD = """
import json, resource, sys, time
from pathlib import Path
from pipeline.modalities.image import Image
root = Path(sys.argv[1])
for name in ("dataset", "quarantine"):
    (root / name).mkdir()
started = time.perf_counter()
found = Image().ingest(root / "raw", root / "dataset", root / "quarantine")
seconds = time.perf_counter() - started
images = len(found.manifest)
print(json.dumps({"images": images, "rejected": len(found.rejected), "seconds": round(seconds, 3),
                  "ms_per_image": round(1000 * seconds / images, 3),
                  "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}))
"""


def make(raw: Path, count: int) -> None:
    """Write `count` images in MVTec layout under `raw`."""
    rng = np.random.default_rng(0)
    for folder in ("train/good", "test/spot", "ground_truth/spot"):
        (raw / folder).mkdir(parents=True)
    for number in tracked(range(count), count, "make", "images"):
        height, width = rng.integers(64, 129, 2)
        colour = number % 2 == 0
        pixels = rng.integers(0, 256, (height, width, 3) if colour else (height, width), dtype=np.uint8)
        image = Image.fromarray(pixels)
        name = f"{number:06d}.{'jpg' if colour else 'png'}"
        if number % 10:
            image.save(raw / "train/good" / name)
            continue
        image.save(raw / "test/spot" / name)
        mask = np.zeros((height, width), np.uint8)
        mask[:20, :20] = 255
        Image.fromarray(mask).save(raw / "ground_truth/spot" / f"{number:06d}_mask.png")


def measure(count: int) -> dict[str, float]:
    """What one ingest of `count` images takes, in a process of its own."""
    with tempfile.TemporaryDirectory(dir=".", prefix=".benchmark-") as folder:
        make(Path(folder) / "raw", count)
        done = subprocess.run([sys.executable, "-c", CHILD, folder], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=10_000, help="how many images to make")
    parser.add_argument("--out", type=Path, help="a file to append the result to, as one JSON line")
    given = parser.parse_args()
    result = measure(given.images)
    print(" | ".join(f"{name:>12}" for name in result))
    print(" | ".join(f"{value:>12,}" for value in result.values()))
    if given.out:
        with given.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
