"""compare: the reports of all candidates -> reports/comparison/ (metrics, curves, histograms that line up)."""

from pathlib import Path

from pipeline import params, side_by_side
from pipeline.files import whole_folder
from pipeline.stages import COMPARISON, run


def main() -> None:
    with whole_folder(COMPARISON) as out:
        names = side_by_side.write(params.read(), Path.cwd(), out)
    print(f"{len(names)} candidates: {', '.join(names)}")


if __name__ == "__main__":
    run(main)
