"""A small table line, run by the real stages up to `evaluate`, and an MLflow store for it."""

import contextlib
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from pipeline import params, promotion, publication
from pipeline.files import write_json
from pipeline.params import Params
from pipeline.stages import augment, calibrate, evaluate, ingest, split, train

PARAMS = {
    "root": ".",
    "dataset": {"source": "data/raw/parts.csv", "kind": "table"},
    "split": {"calibrate": 0.3, "test": 0.3, "seed": 0},
    "augment": {"kind": "none"},
    "candidates": {
        "many": {"detector": "table/isolation_forest", "seed": 0},
        "few": {"detector": "table/isolation_forest", "trees": 2, "seed": 1},
    },
    "calibrate": {"alpha": 0.1, "confidence": None},
    "promote": {"name": "parts", "limits": {"auroc": {"min": 0.6}}},
    "score": {"source": "incoming.csv", "batch": 7, "report": False},
}


def table(normals: int, anomalies: int, seed: int) -> pd.DataFrame:
    """Normals around 0 and anomalies around 3 in four columns, shuffled."""
    rng = np.random.default_rng(seed)
    x = np.concatenate([rng.normal(0, 1, (normals, 4)), rng.normal(3, 1, (anomalies, 4))])
    frame = pd.DataFrame(x, columns=list("abcd"))
    frame.insert(0, "label", [0] * normals + [1] * anomalies)
    return frame.sample(frac=1, random_state=seed, ignore_index=True).rename_axis("id").reset_index()


def write(line: Path, sections: dict[str, object]) -> Params:
    (line / "params.yaml").write_text(yaml.safe_dump(sections, sort_keys=False), encoding="utf-8")
    return params.read(line / "params.yaml")


def run(line: Path, *candidates: str) -> None:
    """The stages up to `evaluate`, in the line's folder."""
    with contextlib.chdir(line):
        ingest.main()
        split.main()
        augment.main()
        for name in candidates:
            train.main(name)
            calibrate.main(name)
            evaluate.main(name)


def make(line: Path) -> Path:
    (line / "data/raw").mkdir(parents=True)
    table(150, 30, seed=0).to_csv(line / "data/raw/parts.csv", index=False)
    batch = table(20, 6, seed=1).drop(columns="label").astype({"a": object})
    batch.loc[3, "a"] = "broken"
    batch.to_csv(line / "incoming.csv", index=False)
    (line / "dvc.lock").write_text("schema: '2.0'\n", encoding="utf-8")
    write(line, PARAMS)
    run(line, "many", "few")
    return line


def promoted(line: Path) -> Path:
    """The line with a champion in the store that MLFLOW_TRACKING_URI names: version 1, the candidate many."""
    given = params.read(line / "params.yaml")
    receipt, _ = publication.publish(given, line)
    write_json(line / "reports/published.json", receipt)
    assert promotion.promote(given, line)["champion"] == 1
    return line


def scoring(line: Path, **options: object) -> None:
    """Change options of the section `score`."""
    sections = yaml.safe_load((line / "params.yaml").read_text(encoding="utf-8"))
    sections["score"] |= options
    write(line, sections)


def copy(line: Path, to: Path) -> Path:
    return Path(shutil.copytree(line, to))
