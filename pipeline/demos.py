"""Two small, easy demonstrations that need no download. They show the line at work; they are not benchmarks.

`textures` is cut from three photographs inside the scikit-image wheel (brick, gravel, grass), with defects drawn in by
the generator below, which no augmenter shares. `wdbc` is scikit-learn's breast-cancer table (Wolberg, Street,
Mangasarian, 1995, UCI repository), with the benign cases as the normal ones.
"""

from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd

TEXTURES = ("brick", "gravel", "grass")
SIDE = 64  # pixels of a tile's side
TEST = {"brick": 13, "gravel": 13, "grass": 12}  # tiles for testing, each good and defective
BATCH = (6, 2)  # good and defective tiles of each texture in the batch
SEED = 2024


def textures(out: Path, batch: bool) -> Path:
    """Write the texture demo to the new folder `out` and return it.

    The dataset has a `manifest.csv` (path, label, defect, mask, group, category, split): of 192 tiles of 64 x 64
    grey pixels, 130 good ones for training and calibration, 38 good ones for testing, and a defective copy of
    each of the 38 with its mask. The batch has the other 24 tiles, 18 in `good/` and 6 in `defective/KIND/`.
    """
    rng = np.random.default_rng(SEED)
    photographs = {name: _photograph(name) for name in TEXTURES}
    rows: list[dict[str, object]] = []
    turn = 0
    for texture in TEXTURES:
        good, bad = BATCH
        order = rng.permutation((512 // SIDE) ** 2)
        for rank, index in enumerate(order):
            row, column = divmod(int(index), 512 // SIDE)
            tile = photographs[texture][row * SIDE : (row + 1) * SIDE, column * SIDE : (column + 1) * SIDE]
            name = f"{texture}-{row}-{column}"
            tested = rank < good + bad + TEST[texture]
            drawn_on = good <= rank < good + bad + TEST[texture]
            if drawn_on:  # drawn for the batch and the dataset alike, so that both come from one stream
                kind = tuple(DEFECTS)[turn % len(DEFECTS)]
                turn += 1
                defective, mask = DEFECTS[kind](tile, rng)
            in_batch = rank < good + bad
            if in_batch != batch:
                continue
            entry = {"group": name, "category": texture, "split": "test" if tested else "train"}
            if not (in_batch and drawn_on):
                path = _save(out, f"good/{name}.png", tile)
                rows.append({"path": path, "label": 0, "defect": "good", "mask": "", **entry})
            if drawn_on:
                path = _save(out, f"defective/{kind}/{name}.png", defective)
                where = "" if in_batch else _save(out, f"masks/{kind}/{name}.png", mask.astype(np.uint8) * 255)
                rows.append({"path": path, "label": 1, "defect": kind, "mask": where, **entry})
    if not batch:
        frame = pd.DataFrame(rows).sort_values("path")
        frame.to_csv(out / "manifest.csv", index=False, lineterminator="\n")
    return out


def wdbc(out: Path, batch: bool) -> Path:
    """Write the breast-cancer demo as one Parquet file under `out` and return its path.

    Columns: id, label (0 benign, 1 malignant) and 30 features. A fixed random tenth of the rows is the batch;
    the dataset has the other nine tenths.
    """
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer()
    names = [str(name).replace(" ", "_") for name in data.feature_names]
    table = pd.DataFrame(data.data, columns=names)
    table.insert(0, "id", [f"wdbc-{number:03d}" for number in range(len(table))])
    table.insert(1, "label", (data.target == 0).astype(np.int8))  # scikit-learn has 0 for malignant
    chosen = np.zeros(len(table), dtype=bool)
    chosen[np.random.default_rng(SEED).permutation(len(table))[: len(table) // 10]] = True
    out.mkdir(parents=True, exist_ok=True)
    path = out / ("wdbc-batch.parquet" if batch else "wdbc.parquet")
    table[chosen if batch else ~chosen].to_parquet(path, index=False)
    return path


def _photograph(name: str) -> np.ndarray:
    """One of scikit-image's photographs, uint8 `(512, 512)`."""
    from PIL import Image

    with (files("skimage") / "data" / f"{name}.png").open("rb") as file, Image.open(file) as image:
        return np.asarray(image.convert("L"))


def _save(out: Path, name: str, pixels: np.ndarray) -> str:
    from PIL import Image

    (out / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(out / name)
    return name


def _scratch(tile: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A slightly bent line, lighter or darker than what it crosses."""
    length, heading = rng.uniform(34, 56), rng.uniform(0, 2 * np.pi)
    headings = heading + np.cumsum(rng.normal(0, 0.06, 48))
    steps = np.stack([np.cos(headings), np.sin(headings)], axis=1) * length / 48
    line = np.cumsum(steps, axis=0)
    line += rng.uniform(SIDE * 0.35, SIDE * 0.65, 2) - line.mean(axis=0)
    distance = np.sqrt(((_grid()[:, :, None] - line) ** 2).sum(-1)).min(-1)
    cover = np.clip(rng.uniform(1.5, 2.5) + 0.5 - distance, 0, 1)
    return _towards(tile, rng.choice([5.0, 250.0]), cover * rng.uniform(0.85, 1)), cover > 0.25


def _hole(tile: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A black pit with a ragged rim."""
    cover = _blob(rng, rng.uniform(8, 12), ragged=0.25, softness=1.2)
    return _towards(tile, rng.uniform(0, 15), cover * rng.uniform(0.9, 1)), cover > 0.25


def _stain(tile: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A bright stain with a soft edge, through which the texture hardly shows."""
    cover = _blob(rng, rng.uniform(10, 15), ragged=0.15, softness=4.0)
    return _towards(tile, rng.uniform(235, 255), cover * rng.uniform(0.75, 0.9)), cover > 0.4


def _mesh(tile: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A scrap of woven mesh, a fine regular pattern that none of the photographs has."""
    angle, period = rng.uniform(0, np.pi), rng.uniform(4, 6)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    waves = np.sin(_grid() @ turn * (2 * np.pi / period))
    cover = _blob(rng, rng.uniform(10, 15), ragged=0.2, softness=1.5)
    return _towards(tile, 128 + 100 * waves[..., 0] * waves[..., 1], cover), cover > 0.5


DEFECTS = {"scratch": _scratch, "hole": _hole, "stain": _stain, "mesh": _mesh}


def _grid() -> np.ndarray:
    """Pixel coordinates, `(64, 64, 2)`."""
    return np.stack(np.meshgrid(np.arange(SIDE), np.arange(SIDE), indexing="ij"), axis=-1).astype(np.float64)


def _blob(rng: np.random.Generator, radius: float, ragged: float, softness: float) -> np.ndarray:
    """Cover in [0, 1], `(64, 64)`, of a star-shaped spot whose rim is a sum of sines."""
    away = _grid() - rng.uniform(radius + 2, SIDE - radius - 2, 2)
    angle = np.arctan2(away[..., 0], away[..., 1])
    rim = np.ones_like(angle)
    for waves in range(2, 6):
        rim += ragged * rng.uniform(0.3, 1) / np.sqrt(waves) * np.sin(waves * angle + rng.uniform(0, 2 * np.pi))
    return np.clip((radius * rim - np.hypot(away[..., 0], away[..., 1])) / softness + 0.5, 0, 1)


def _towards(tile: np.ndarray, colour: float | np.ndarray, cover: np.ndarray) -> np.ndarray:
    """`tile` with `colour` laid over it where `cover` says, uint8."""
    return np.clip(np.rint(tile * (1 - cover) + colour * cover), 0, 255).astype(np.uint8)
