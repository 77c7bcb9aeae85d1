"""What the store promises across processes: the same bytes, and no import of what is not needed."""

import os
import subprocess
import sys
from pathlib import Path

from pipeline.files import sha256

ROOT = Path(__file__).parents[1]
FRESH = """
import sys
from pathlib import Path
import numpy as np
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from pipeline import store
from pipeline.detectors.table.isolation_forest import IsolationForest
from pipeline.modalities.table import Table
from pipeline.protocols import State
from tests.detectors.table.rows import mixed, view

padding = [object() for _ in range(int(sys.argv[2]))]  # other addresses in memory
x = np.random.default_rng(0).normal(size=(60, 4))
detector = IsolationForest(trees=5).fit(view(mixed(60), [0] * 60))
state = detector.state()
estimators = {"pca": PCA(2).fit(x), "line": LogisticRegression().fit(x, x[:, 0] > 0)}
detector.state = lambda: State(state.arrays, state.meta, estimators)
store.save(detector, "table/isolation_forest", Path(sys.argv[1]), kind="table", modality=Table(), data="")
"""


def test_two_processes_write_the_same_bytes(tmp_path: Path) -> None:
    hashes = []
    for number, seed in ((0, "1"), (5000, "2")):
        folder = tmp_path / str(number)
        folder.mkdir()
        words = [sys.executable, "-c", FRESH, str(folder), str(number)]
        subprocess.run(words, check=True, cwd=ROOT, env=_environment(PYTHONHASHSEED=seed), timeout=120)
        names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
        hashes.append({name: sha256(folder / name) for name in names})
    assert len(hashes[0]) == 5
    assert hashes[0] == hashes[1]


def _environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), **more}


LINE = """
import sys
from pathlib import Path
from pipeline import store
from pipeline.augmenters.smote import Smote
from pipeline.detectors.table.knn import KNN
from pipeline.detectors.table.isolation_forest import IsolationForest
from pipeline.detectors.table.smote_classifier import SmoteClassifier
from pipeline.modalities.table import Table
from tests.detectors.table.rows import batch, mixed, view

train = view(mixed(60), [0] * 50 + [1] * 10)
list(Smote(neighbours=3).augment(train))
for key, detector in (("isolation_forest", IsolationForest()), ("knn", KNN()), ("smote_classifier", SmoteClassifier())):
    folder = Path(sys.argv[1], key)
    folder.mkdir()
    store.save(detector.fit(train), f"table/{key}", folder, kind="table", modality=Table(), data="")
    store.load(folder).detector.score(batch(mixed(5)))
assert "torch" not in sys.modules, "torch was imported"
"""


def test_a_table_line_never_imports_torch(tmp_path: Path) -> None:
    words = [sys.executable, "-W", "error", "-c", LINE, str(tmp_path)]
    done = subprocess.run(words, cwd=ROOT, env=_environment(), timeout=120, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_store_itself_imports_neither_torch_nor_scikit_learn() -> None:
    look = "import sys, pipeline.store; print([m for m in ('torch', 'sklearn', 'skops', 'scipy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", look], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
