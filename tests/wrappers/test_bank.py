"""A bank beside a detector: sums by hand, what neither has seen, the way through the store."""

from pathlib import Path

import numpy as np
import pytest

from pipeline import store
from pipeline.detectors.image.gaussian import Gaussian
from pipeline.detectors.image.patchcore import PatchCore
from pipeline.errors import DataError, NotFittedError
from pipeline.modalities.image import Image
from pipeline.params import Params
from pipeline.parts.features import Backbone
from pipeline.protocols import Batch, Detector, Samples, Scores
from pipeline.wrappers.bank import WithBank
from tests.pictures import SIDE, planted, stripes, view, whole


class Given:
    """Keeps what it was trained on; the score is the mean grey level, the map that of the top left pixel."""

    learns_from, paper, maps = "labels", "", True

    def fit(self, train: Samples) -> "Given":
        self.ids = train.ids
        return self

    def score(self, batch: Batch) -> Scores:
        x = batch.x[:, 0].astype(np.float32)
        return Scores(x.mean(axis=(1, 2)), x if self.maps else None)


@pytest.mark.parametrize("maps", [True, False])
def test_scores_and_maps_are_sums_in_standard_deviations_of_normals_held_out(maps: bool) -> None:
    x = np.concatenate([stripes(20, 0), planted(1, 1)[0]])
    label = np.array([0] * 20 + [1])
    given = Given()
    given.maps = maps
    backbone = Backbone(levels=[0, 1])
    detector = WithBank(backbone=backbone, coreset=0.1, held=0.25).around(given).fit(view(x, label))
    held = [i for i in range(20) if f"s-{i:03d}" not in given.ids]
    assert len(held) == 5
    assert "s-020" in given.ids  # anomalies are learned from
    learned = np.array([i for i in range(20) if i not in held])
    alone = PatchCore(backbone, coreset=0.1, image_score="map", neighbours=1).fit(view(x[learned]))
    test, apart = whole(view(x)), whole(view(x[held]))
    sample, local = 0, 0
    for one in (alone, given):
        normal, found = one.score(apart), one.score(test)
        sample = sample + (found.sample - normal.sample.mean()) / normal.sample.std()
        if found.local is not None:
            local = local + (found.local - normal.local.mean()) / normal.local.std()
    scores = detector.score(test)
    np.testing.assert_allclose(scores.sample, sample, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(scores.local, local, rtol=1e-3, atol=1e-3)
    assert scores.sample.argmax() == 20
    assert np.unravel_index(scores.local[20].argmax(), (SIDE, SIDE)) in {(r, c) for r in range(28) for c in range(40)}


def test_it_comes_from_params_and_survives_the_store(tmp_path: Path) -> None:
    section = {"detector": "image/gaussian", "maps": True, "bank": {"coreset": 0.05}, "tiles": {"size": [32, 32]}}
    detector = Params({"candidates": {"a": section}}, Path("params.yaml")).detector("a")
    assert isinstance(detector.inner, WithBank)  # inside the tiles
    assert isinstance(detector, Detector)
    detector.fit(view(stripes(8, 0)))
    store.save(detector, "image/gaussian", tmp_path, kind="image", modality=Image(), data="")
    test = whole(view(planted(6, 1)[0]))
    loaded, found = store.load(tmp_path).detector.score(test), detector.score(test)
    np.testing.assert_array_equal(loaded.sample, found.sample)
    np.testing.assert_array_equal(loaded.local, found.local)
    assert found.sample.argmax() == 5


def test_only_the_region_counts_and_what_never_varies_does_not_divide_by_zero() -> None:
    x, region = stripes(8, 0), np.ones((8, SIDE, SIDE), bool)
    region[:, :, SIDE // 2 :] = False
    spoiled = x.copy()
    spoiled[:, :, :, SIDE // 2 + 8 :] = 255
    plain, other = (
        WithBank(backbone=Backbone(levels=[0]), coreset=0.1)
        .around(Gaussian(Backbone(levels=[0])))
        .fit(view(a, region=region))
        for a in (x, spoiled)
    )
    np.testing.assert_allclose(plain.scales_, other.scales_, rtol=1e-3)
    same = np.repeat(stripes(1, 0), 6, axis=0)
    assert np.isfinite(WithBank(coreset=0.1).around(Given()).fit(view(same)).score(whole(view(same))).local).all()


def test_too_few_normals_and_too_early() -> None:
    with pytest.raises(DataError, match="needs at least 3 normal samples, got 2"):
        WithBank().around(Given()).fit(view(stripes(2, 0)))
    with pytest.raises(NotFittedError):
        WithBank().around(Given()).score(whole(view(stripes(1, 0))))
    with pytest.raises(DataError, match="48 high and 48 wide"):
        fitted = WithBank(coreset=0.1).around(Given()).fit(view(stripes(6, 0)))
        fitted.score(whole(view(stripes(2, 0)[:, :, :40])))
