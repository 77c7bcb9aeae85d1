"""Which images train and which are told apart, in each regime of `benchmarks.images`; and what its words are."""

from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.samples import read_manifest

Rows = pd.DataFrame


def sets(chosen: Namespace) -> list[Path]:
    """The CSV files of the splits."""
    return [Path(name) for name in str(chosen.split).split(",")]


def measured(chosen: Namespace) -> list[str]:
    """What is measured, one line each: every set, or all together."""
    names = [split.stem for split in sets(chosen)]
    return ["+".join(names)] if chosen.together else names


def others(chosen: Namespace, name: str) -> list[str]:
    """The sets that are learned from when `name` is one that a method has never seen."""
    return [split.stem for split in sets(chosen) if split.stem != name] if chosen.unseen else []


def regime(chosen: Namespace) -> str:
    """`all-class`, `few-shot` or `zero-shot`; empty for one model that all of a set's training part teaches."""
    if chosen.together:
        return "all-class"
    if chosen.shots:
        return "few-shot"
    return "zero-shot" if chosen.whole or chosen.unseen else ""


def told(chosen: Namespace, name: str) -> dict[str, Any]:
    """What a line says of its regime."""
    found: dict[str, Any] = {"regime": regime(chosen)} if regime(chosen) else {}
    found |= {"shots": chosen.shots, "draws": chosen.draws} if chosen.shots else {}
    found |= {"whole": True} if chosen.whole else {}
    return found | ({"learned_on": others(chosen, name)} if chosen.unseen else {})


def filled(options: dict[str, Any], chosen: Namespace, name: str) -> dict[str, Any]:
    """`options` with OTHERS (null where there are none) and SHOTS replaced by what they stand for."""
    known = {"OTHERS": others(chosen, name) or None, "SHOTS": chosen.shots}
    return {key: known.get(value, value) if isinstance(value, str) else value for key, value in options.items()}


def manifest(chosen: Namespace, name: str, modality: Any, out: Path) -> Rows:
    """The rows of the images of `name`, and of the other sets where these are needed, read into the folder `out`."""
    for one in chosen.data.resolve().iterdir():  # a manifest must lie beside its images
        (out / "source" / one.name).parent.mkdir(exist_ok=True)
        (out / "source" / one.name).symlink_to(one)
    source = out / "source" / "this_split.csv"
    several = chosen.together or chosen.unseen
    chosen_sets = [split for split in sets(chosen) if several or split.stem == name]
    frames = [pd.read_csv(split, dtype=str, keep_default_na=False) for split in chosen_sets]
    if several:
        frames = [frame.assign(category=split.stem) for frame, split in zip(frames, chosen_sets, strict=True)]
    pd.concat(frames).to_csv(source, index=False)
    modality.ingest(source, out, out)
    return read_manifest(out)


def parts(chosen: Namespace, name: str, rows: Rows, modality: Any, out: Path) -> tuple[Rows, Rows]:
    """Rows to train on and rows to tell apart. Shots are not drawn yet: see `drawn`."""
    own = rows[rows["category"] == name] if chosen.unseen else rows
    train, test, calibrate = (own[own["split"] == part] for part in ("train", "test", "calibrate"))
    if chosen.on == "calibrate":
        test = synthetic(modality, calibrate, out)
    if chosen.labelled:
        given = test[test["label"] == 1].groupby("defect").sample(frac=chosen.labelled, random_state=0)
        test = test.drop(given.index)
        if chosen.on == "given":
            taught = (given.groupby("defect").cumcount() % 2 == 1) & (not chosen.withheld)
            train = pd.concat([train, given[taught]])
            test = pd.concat([calibrate, given[~taught]])
        elif not chosen.withheld:
            train = pd.concat([train, given.assign(mask="") if chosen.unmasked else given])
    if chosen.unseen:  # of the others all is known, defects and masks too
        elsewhere = rows[rows["category"] != name]
        train = pd.concat([elsewhere, train]) if chosen.shots else elsewhere
    return train.reset_index(drop=True), test.reset_index(drop=True)


def drawn(chosen: Namespace, name: str, train: Rows, seed: int) -> Rows:
    """`train` with `shots` of its images, of each category where there are several; unseen: of `name` alone."""
    if not chosen.shots:
        return train
    rng = np.random.default_rng(seed)
    kept = []
    for category, own in train.groupby("category", sort=False):
        whole = chosen.unseen and category != name
        kept.append(own if whole else own.iloc[rng.permutation(len(own))[: chosen.shots]])
    return pd.concat(kept).reset_index(drop=True)


def labels(chosen: Namespace) -> str:
    """What training was given of the test's defects."""
    if chosen.on == "given":
        return f"{chosen.labelled:.0%} of the defects, {'all' if chosen.withheld else 'half given, half'} told"
    given = "not given" if chosen.withheld else "given without masks" if chosen.unmasked else "given with masks"
    return f"{chosen.labelled:.0%} of the defects {given}"


def synthetic(modality: Any, normals: Rows, out: Path) -> Rows:
    """Manifest rows of `normals` and of the anomalies that both augmenters make of them, plain ones and faint ones."""
    from pipeline.augmenters.cutpaste import CutPaste
    from pipeline.augmenters.perlin import Perlin

    makers = {
        "perlin": Perlin(share=1.0),
        "cutpaste": CutPaste(share=1.0),
        "faint": Perlin(share=1.0, opacity=(0.1, 0.4), finest=6, seed=1),
        "scar": CutPaste(share=1.0, shape="scar", seed=1),
    }
    made = [normals]
    for name, augmenter in makers.items():
        folder = out / name
        folder.mkdir()
        modality.save(augmenter.augment(modality.samples(normals)), folder)
        rows = read_manifest(folder)
        made.append(rows.assign(defect=name, id=name + "/" + rows["id"]))
    return pd.concat(made)
