"""What goes around a detector: fakes that are local show seams, real ones show that it is worth it."""

from copy import deepcopy
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.ndimage import rotate

from pipeline import detectors, store, wrappers
from pipeline.detectors.image.draem import Draem
from pipeline.detectors.image.gaussian import Gaussian
from pipeline.detectors.image.patchcore import PatchCore
from pipeline.errors import DataError, NotFittedError, ParamsError
from pipeline.explanation import Explains
from pipeline.modalities.image import Image
from pipeline.params import Params, wrap
from pipeline.parts.features import Backbone
from pipeline.protocols import Batch, Detector, Samples, Scores, State
from pipeline.samples import View
from pipeline.tables import find
from pipeline.wrappers.per_category import PerCategory
from pipeline.wrappers.tiles import Tiles
from pipeline.wrappers.turns import Turns, turned
from tests.pictures import SIDE, planted, stripes, view, whole


@dataclass
class Local:
    """Grey levels as the map, its largest as the score; keeps what it was trained on and asked."""

    learns_from = "labels"
    paper = ""
    history_: list[dict[str, float]] = field(default_factory=list)
    seen: list[Batch] = field(default_factory=list)

    def fit(self, train: Samples) -> "Local":
        self.train, self.seen = train, list(train.batches(5))
        return self

    def score(self, batch: Batch) -> Scores:
        local = batch.x[:, 0].astype(np.float32)
        inside = np.ones(local.shape, bool) if batch.region is None else batch.region
        return Scores(np.where(inside, local, -1).max(axis=(1, 2)), np.where(inside, local, 1e6))

    def state(self) -> State:
        return State({"a": np.arange(3)}, {"b": 1})

    def from_state(self, state: State) -> "Local":
        assert state.arrays["a"].tolist() == [0, 1, 2]
        assert state.meta == {"b": 1}
        return self


def pictures(n: int, h: int = 70, w: int = 100) -> np.ndarray:
    return np.random.default_rng(4).integers(0, 255, (n, 3, h, w), dtype=np.uint8)


@pytest.mark.parametrize(("size", "overlap"), [((70, 100), 0.0), ((32, 32), 0.0), ((32, 32), 0.25), ((33, 17), 0.6)])
def test_tiles_of_what_is_local_leave_no_seam(size: tuple[int, int], overlap: float) -> None:
    x = pictures(3)
    region = np.ones((3, 70, 100), bool)
    region[0, :, :20] = False
    test = whole(view(x, region=region))
    tiled = Tiles(size, overlap).around(Local()).fit(view(x, region=region))
    plain, found = Local().score(test), tiled.score(test)
    np.testing.assert_array_equal(found.sample, plain.sample)
    np.testing.assert_allclose(found.local[region], plain.local[region], rtol=1e-5)
    apart = [tiled.score(b) for b in view(x, region=region).batches(1)]
    np.testing.assert_array_equal(found.local, np.concatenate([a.local for a in apart]))


def test_tiles_carry_the_labels_of_their_pixels_and_bars_are_left_out() -> None:
    x = pictures(3, 64, 64)
    mask, region = np.zeros((3, 64, 64), np.int8), np.ones((3, 64, 64), bool)
    mask[1, 40:44, 4:9] = 1
    mask[2] = -1
    region[0, 32:] = False
    tiled = Tiles((32, 32), 0.0).around(Local()).fit(view(x, np.array([0, 1, 1]), mask, region))
    found = [
        (name, int(label)) for batch in tiled.inner.seen for name, label in zip(batch.ids, batch.label, strict=False)
    ]
    lower = [("s-001", 0), ("s-001", 0), ("s-001", 1), ("s-001", 0)]
    assert found == [("s-000", 0)] * 2 + lower + [("s-002", -1)] * 4
    assert all(batch.x.shape[2:] == (32, 32) for batch in tiled.inner.seen)


def test_what_a_detector_picks_by_label_are_tiles_of_that_label() -> None:
    """Also where tiles are left out: a view says what its batches hold, whichever samples are taken of it."""
    x, mask, region = pictures(3, 64, 64), np.zeros((3, 64, 64), np.int8), np.ones((3, 64, 64), bool)
    mask[1, 40:44, 4:9], region[0, 32:] = 1, False
    tiled = Tiles((32, 32), 0.0).around(Local()).fit(view(x, np.array([0, 1, 0]), mask, region))
    given = tiled.inner.train
    assert given.label.tolist() == [0] * 2 + [0, 0, 1, 0] + [0] * 4
    for size in (1, 3):
        assert sum(len(batch) for batch in given.batches(size)) == len(given) == 10
    (batch,) = given[given.label == 1][np.array([0, 0])].batches(5)
    assert batch.label.tolist() == [1, 1]
    assert (batch.mask == mask[1, 32:, :32]).all()


def test_draem_learns_through_tiles_of_which_some_do_not_count() -> None:
    x, region = pictures(4, 64, 64), np.ones((4, 64, 64), bool)
    region[:, :32] = False  # as under a letterbox
    tiled = Tiles((32, 32), 0.0).around(Draem(width=4, steps=2, batch=2, shrink=1)).fit(view(x, region=region))
    assert np.isfinite(tiled.score(whole(view(x, region=region))).sample).all()


def test_an_image_of_which_nothing_counts_is_scored_still() -> None:
    x = pictures(2, 64, 64)
    region = np.ones((2, 64, 64), bool)
    region[1] = False
    tiled = Tiles((32, 32)).around(Local()).fit(view(x))
    assert np.isfinite(tiled.score(whole(view(x, region=region))).sample).all()


def test_a_small_defect_is_found_through_tiles() -> None:
    x, train = np.tile(stripes(6, 1), (1, 1, 3, 3)), np.tile(stripes(6, 0), (1, 1, 3, 3))
    mask = np.zeros((6, 3 * SIDE, 3 * SIDE), np.int8)
    mask[5, 90:96, 47:53] = 1  # across a border between tiles
    x[5][:, mask[5] == 1] = 230
    tiled = Tiles((64, 64), 0.25).around(PatchCore(Backbone(levels=[0, 1]), coreset=0.02)).fit(view(train))
    found = tiled.score(whole(view(x, mask=mask)))
    assert found.sample.argmax() == 5
    assert mask[5].flat[found.local[5].argmax()] == 1


@pytest.mark.parametrize("count", [2, 4])
def test_quarter_turns_of_what_is_local_change_nothing(count: int) -> None:
    x = pictures(2, 64, 64)
    for merge in ("mean", "min"):
        found = Turns(count, merge).around(Local()).fit(view(x)).score(whole(view(x)))
        np.testing.assert_array_equal(found.sample, x[:, 0].max(axis=(1, 2)))
        np.testing.assert_allclose(found.local, x[:, 0])


def test_other_turns_agree_with_scipy_and_find_their_way_back() -> None:
    y, x = np.mgrid[:64, :64]
    smooth = np.exp(-((y - 20) ** 2 + (x - 40) ** 2) / 60).astype(np.float32)
    expected = rotate(smooth, 30, reshape=False, order=1)
    np.testing.assert_allclose(turned(smooth[None], 30 / 360)[0], expected, atol=0.02)
    images = np.repeat((255 * smooth).astype(np.uint8)[None, None], 3, axis=1)
    detector = Turns(12).around(Local()).fit(view(images))
    found = detector.score(whole(view(images)))
    assert np.unravel_index(found.local[0].argmax(), (64, 64)) == (20, 40)
    np.testing.assert_allclose(found.local[0, 10:54, 10:54], images[0, 0, 10:54, 10:54], atol=6)


def test_min_lets_one_direction_excuse_a_part_and_training_may_turn_too() -> None:
    x = stripes(12, 0)
    other = np.ascontiguousarray(np.rot90(stripes(4, 1), axes=(2, 3)))  # stripes the other way
    one_way = Turns(4, "min").around(Gaussian()).fit(view(x)).score(whole(view(other))).sample
    plain = Gaussian().fit(view(x)).score(whole(view(other))).sample
    assert one_way.max() < 0.5 * plain.min()
    both = Turns(4, "mean", train=True).around(Local()).fit(view(x))
    assert sum(len(batch) for batch in both.inner.seen) == 48


def test_images_that_cannot_be_turned_or_tiled_are_refused() -> None:
    with pytest.raises(DataError, match="must be square to be turned 4 times, got 70 x 100"):
        Turns(4).around(Local()).fit(view(pictures(1)))
    Turns(2).around(Local()).fit(view(pictures(1)))
    with pytest.raises(DataError, match="tiles of 80 x 80 and images of 70 x 100"):
        Tiles((80, 80)).around(Local()).fit(view(pictures(1)))
    with pytest.raises(NotFittedError):
        Tiles((32, 32)).around(Gaussian()).score(whole(view(pictures(1))))


def test_each_category_has_its_own_model_and_an_unseen_one_is_refused() -> None:
    light, dark = stripes(8, 0), (stripes(8, 1) // 4).astype(np.uint8)
    x, names = np.concatenate([light, dark]), ["light"] * 8 + ["dark"] * 8
    detector = PerCategory().around(Gaussian(maps=True)).fit(view(x, category=names))
    test = view(np.stack([light[0], dark[0], light[0]]), category=["light", "dark", "dark"])
    found = detector.score(whole(test))
    alone = Gaussian(maps=True).fit(view(light)).score(whole(view(light[:1])))
    np.testing.assert_allclose(found.sample[0], alone.sample[0], rtol=1e-5)
    np.testing.assert_allclose(found.local[0], alone.local[0], rtol=1e-5)
    assert found.sample[2] > 5 * found.sample[1]
    with pytest.raises(DataError, match="category of sample s-000 must be one of training, dark, light, got 'grey'"):
        detector.score(whole(view(light[:1], category=["grey"])))
    with pytest.raises(DataError, match="needs a category for every sample, and there is none for s-000"):
        PerCategory().around(Gaussian()).fit(view(light))
    with pytest.raises(DataError, match="needs a category for every sample, and there is none for s-001"):
        PerCategory().around(Gaussian()).fit(view(light, category=["a", None] + ["a"] * 6))
    with pytest.raises(DataError, match="category dark: .*at least 2 normal"):
        PerCategory().around(Gaussian()).fit(view(light, category=["dark"] + ["light"] * 7))


@dataclass
class Told:
    """Explains rows by their own values, times 1 more than what the first row of training held in `a`."""

    def fit(self, train: Samples) -> "Told":
        (batch,) = train.batches(9)
        self.factor = 1 + batch.x["a"].iloc[0]
        return self

    def explain(self, batch: Batch) -> pd.DataFrame:
        return (batch.x * self.factor).astype(np.float32)


def test_each_category_explains_its_own_rows_in_their_order() -> None:
    frame = pd.DataFrame({"a": [1.0, 9.0, 5.0, 7.0], "b": [2.0, 4.0, 6.0, 8.0]}, index=["r", "s", "t", "u"])

    def named(names: list[str]) -> View:
        rows = pd.DataFrame({"id": frame.index, "label": 0, "category": names})
        return View(
            rows, lambda p: Batch(p["id"].tolist(), frame.loc[p["id"]], p["label"].to_numpy(), None, None, names)
        )

    detector = PerCategory().around(Told()).fit(named(["y", "x", "x", "y"]))
    told = detector.explain(whole(named(["y", "x", "y", "x"])))
    assert told.index.tolist() == ["r", "s", "t", "u"]
    np.testing.assert_array_equal(told, [[2, 4], [90, 40], [10, 12], [70, 80]])
    assert set(told.dtypes) == {np.dtype("float32")}
    assert detector.explain(Batch([], frame[:0], np.zeros(0, np.int8), category=[])).shape == (0, 2)
    with pytest.raises(DataError, match="category of sample s must be one of training, x, y, got 'z'"):
        detector.explain(whole(named(["y", "z", "y", "x"])))
    with pytest.raises(NotFittedError, match="PerCategory must be fitted"):
        PerCategory().around(Told()).explain(whole(named(["y"] * 4)))


def test_categories_explain_only_what_their_detector_explains() -> None:
    assert isinstance(PerCategory().around(Told()), Explains)
    assert isinstance(deepcopy(PerCategory().around(Told())), Explains)
    assert not isinstance(PerCategory().around(Gaussian()), Explains)


EVERYTHING = {"tiles": {"size": [32, 32]}, "turns": {"count": 4}, "per_category": True}


def test_wrappers_come_from_params_in_their_order_and_survive_the_store(tmp_path: Path) -> None:
    section = {"detector": "image/gaussian", "maps": True, **EVERYTHING}
    detector = Params({"candidates": {"a": section}}, Path("params.yaml")).detector("a")
    assert [type(detector), type(detector.inner), type(detector.inner.inner)] == [PerCategory, Turns, Tiles]
    assert isinstance(detector, Detector)
    names = ["a"] * 4 + ["b"] * 4
    detector.fit(view(stripes(8, 0), category=names))
    store.save(detector, "image/gaussian", tmp_path, kind="image", modality=Image(), data="")
    loaded = store.load(tmp_path).detector
    test = whole(view(planted(8, 1)[0], category=names))
    np.testing.assert_array_equal(loaded.score(test).sample, detector.score(test).sample)
    np.testing.assert_array_equal(loaded.score(test).local, detector.score(test).local)


@pytest.mark.parametrize(
    ("around", "says"),
    [
        ({"tiles": {"overlap": 0.2}}, r"candidates.a.tiles.size is required and missing"),
        ({"tiles": {"size": [8, 8]}}, r"candidates.a.tiles.size.0 .*greater than or equal to 16, got 8"),
        ({"turns": {"count": 1}}, r"candidates.a.turns.count .*greater than or equal to 2"),
        ({"turns": 4}, r"candidates.a.turns must hold keys and values, got 4"),
        ({"per_category": {"by": "x"}}, r"candidates.a.per_category.by is not a known key"),
    ],
)
def test_options_of_wrappers_are_checked(around: dict[str, Any], says: str) -> None:
    with pytest.raises(ParamsError, match=says):
        wrap(Gaussian(), around, "candidates.a")


def test_images_wrappers_do_not_go_around_tables() -> None:
    params = Params({"candidates": {"a": {"detector": "table/knn", "turns": {"count": 4}}}}, Path("params.yaml"))
    with pytest.raises(ParamsError, match=r"candidates.a.turns is for image/ detectors only, got table/knn"):
        params.detector("a")
    params = Params({"candidates": {"a": {"detector": "table/knn", "per_category": True}}}, Path("params.yaml"))
    assert isinstance(params.detector("a"), PerCategory)


def test_false_is_no_wrapper() -> None:
    plain = Gaussian()
    assert wrap(plain, {"tiles": False, "per_category": False}, "candidates.a") is plain


@pytest.mark.parametrize("key", detectors.TABLE)
def test_no_detector_has_a_field_with_a_wrapper_s_name(key: str) -> None:
    assert not {f.name for f in fields(find(detectors, key, "detector"))} & set(wrappers.TABLE)
