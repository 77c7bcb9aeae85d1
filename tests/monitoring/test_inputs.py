"""Facts about some samples of a view: which ones, what about them, embeddings of the image detectors that offer one."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline import params, tracking
from pipeline.detectors.image.gaussian import Gaussian
from pipeline.detectors.image.padim import Padim
from pipeline.detectors.image.patchcore import PatchCore
from pipeline.errors import NotFittedError, RegistryError
from pipeline.modalities.table import Table
from pipeline.monitoring import inputs, look_up, reference
from pipeline.monitoring.reference import Reference
from pipeline.parts import features
from pipeline.parts.features import Backbone
from pipeline.protocols import Batch
from pipeline.store import Stored
from pipeline.wrappers.bank import WithBank
from tests.pictures import stripes, view, whole


class Sees:
    """A detector whose embedding is its samples' columns, `times` over."""

    def __init__(self, times: int) -> None:
        self.times = times

    def embed(self, batch: Batch) -> np.ndarray:
        return np.tile(batch.x.to_numpy(np.float32), self.times)


def stored(detector: object) -> Stored:
    return Stored(detector, "", "", Table(), "")


def table(n: int) -> pd.DataFrame:
    return pd.DataFrame({"id": [f"r{i}" for i in range(n)], "a": np.arange(n) / 1.0, "b": np.arange(n) * 2.0})


def test_a_sample_is_drawn_by_its_seed_and_described() -> None:
    view = Table().from_frame(table(200))
    found = inputs.sample(stored(object()), view, 50, 3)
    assert found.shape == (50, 2)
    assert found.index.is_unique
    assert (found["b"] == 2 * found["a"]).all()
    assert found.index.tolist() == [f"r{int(a)}" for a in found["a"]]
    assert found.equals(inputs.sample(stored(object()), view, 50, 3))
    assert not found.equals(inputs.sample(stored(object()), view, 50, 4))
    assert inputs.sample(stored(object()), view, 1000, 3).index.tolist() == view.ids


def test_some_of_the_sample_are_embedded() -> None:
    view = Table().from_frame(table(400))
    found = inputs.sample(stored(Sees(1)), view, 100, 0)
    embedded = found.filter(like="embedding:").dropna()
    assert embedded.shape == (7, 2)  # 64 of 1,000 are 6.4 of 100
    np.testing.assert_array_equal(embedded, found.loc[embedded.index, ["a", "b"]])
    few = inputs.sample(stored(Sees(1)), view[:3], 100, 0)
    assert few.filter(like="embedding:").dropna().shape == (1, 2)  # one in 25, rounded up


def test_long_embeddings_are_projected_and_keep_their_distances() -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(30, 200)), columns=[f"c{i}" for i in range(200)])
    found = inputs.embeddings(Sees(10), Table().from_frame(frame)).to_numpy()
    assert found.shape == (30, inputs.DIMS)
    before = np.linalg.norm(np.tile(frame.to_numpy(), 10)[1:] - np.tile(frame.to_numpy(), 10)[0], axis=1)
    assert np.abs(np.linalg.norm(found[1:] - found[0], axis=1) / before - 1).max() < 0.35


def test_sizes_of_the_raw_samples_stand_beside_the_facts() -> None:
    view = Table().from_frame(table(3))
    view.rows = view.rows.assign(width=[5, 6, 7], height=8)
    found = inputs.facts(Table(), view)
    assert found[["width", "height"]].to_numpy().tolist() == [[5, 8], [6, 8], [7, 8]]


def test_of_no_samples_there_is_nothing_to_tell() -> None:
    view = Table().from_frame(table(3))[:0]
    assert inputs.sample(stored(Sees(1)), view, 10, 0).empty


@pytest.mark.parametrize("detector", [Gaussian(), Padim(dims=5), PatchCore(), WithBank().around(Gaussian())])
def test_image_detectors_embed_what_their_backbone_sees(detector: Gaussian) -> None:
    x = stripes(8, 0)
    with pytest.raises(NotFittedError):
        detector.embed(whole(view(x)))
    levels = features.load(getattr(detector, "backbone", Backbone())).maps(x)
    expected = np.concatenate([level.numpy().mean(axis=(2, 3)) for level in levels], axis=1)
    found = detector.fit(view(x)).embed(whole(view(x)))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    region = np.zeros((8, *x.shape[2:]), bool)
    region[:, :32, :32] = True
    assert not np.allclose(detector.embed(replace(whole(view(x)), region=region)), found, rtol=1e-3)


def test_a_published_version_has_the_reference_of_its_calibration_part(ready: Path) -> None:
    registry = tracking.connect()
    version = registry.version("parts", 1)
    found = look_up.reference_of(registry, version)
    parts = pd.read_parquet(ready / "data/split.parquet").merge(
        pd.read_parquet(ready / "data/dataset/manifest.parquet")
    )
    normals = parts[(parts["part"] == "calibrate") & (parts["label"] == 0)]
    assert sorted(found.inputs.index) == sorted(normals["id"])
    assert found.inputs.columns.tolist() == list("abcd")
    assert (found.samples, found.quarantined) == (180, 0)
    assert version.tags[reference.TAG] == str(len(normals))
    before = replace(version, tags={key: value for key, value in version.tags.items() if key != reference.TAG})
    assert look_up.reference_of(registry, before) is None  # as versions of before
    lost = replace(version, run_id=registry.version("parts", 2).run_id[::-1])
    with pytest.raises(RegistryError):
        look_up.reference_of(registry, lost)


def test_a_reference_survives_the_disk(tmp_path: Path, line_that_ran: Path) -> None:
    given = params.read(line_that_ran / "params.yaml")
    found = reference.Source(given, line_that_ran).of(stored(Sees(1)))
    assert found.inputs.filter(like="embedding:").shape == (len(found.inputs), 4)
    found.write(tmp_path / "reference")
    again = Reference.read(tmp_path / "reference")
    pd.testing.assert_frame_equal(again.inputs, found.inputs)
    assert (again.samples, again.quarantined) == (found.samples, found.quarantined)
