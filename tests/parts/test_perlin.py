import numpy as np

from pipeline.parts.perlin import blend, corrupted, foreign, mask, noise


def test_noise_vanishes_on_the_grid_and_is_smooth_between() -> None:
    rng = np.random.default_rng(0)
    # 4 cells over 404 pixels: pixel centres 50.5 + 101 k lie in the middle of cells, 0.5 beside a grid line
    values = noise((404, 404), (4, 4), rng)
    assert values.dtype == np.float32
    assert np.abs(values[::101, ::101]).max() < 0.02
    assert values.max() > 0.3
    assert np.abs(np.diff(values, axis=0)).max() < 0.06
    assert np.abs(values).max() <= 1


def test_one_cell_by_hand() -> None:
    class Fixed:
        def uniform(self, low: float, high: float, shape: tuple[int, int]) -> np.ndarray:
            return np.zeros(shape)  # every gradient points along x

    # one pixel in the middle of one cell: the corners give +0.5, -0.5, +0.5, -0.5 and weigh the same
    assert noise((1, 1), (1, 1), Fixed())[0, 0] == 0  # type: ignore[arg-type]
    # two pixels at u = 0.25 and 0.75: fade(0.25) = 0.103515625, and 0.25 (1 - f) - 0.75 f = 0.146484375
    left, right = noise((1, 2), (1, 1), Fixed())[0]  # type: ignore[arg-type]
    np.testing.assert_allclose([left, right], np.sqrt(2) * np.array([0.146484375, -0.146484375]), rtol=1e-6)


def test_masks_are_neither_empty_nor_full_and_repeat() -> None:
    for size in ((64, 48), (8, 8), (31, 200)):
        masks = [mask(size, 5, np.random.default_rng(seed)) for seed in range(40)]
        assert all(m.shape == size and m.any() and not m.all() for m in masks)
        np.testing.assert_array_equal(masks[3], mask(size, 5, np.random.default_rng(3)))


def test_blend_by_hand_touches_the_mask_only() -> None:
    image = np.full((3, 2, 2), 100, np.uint8)
    where = np.array([[True, False], [False, False]])
    out = blend(image, np.full((3, 2, 2), 201.0, np.float32), where, 0.25)
    np.testing.assert_array_equal(out, np.where(where, 125, 100) * np.ones((3, 1, 1)))  # 75 + 50.25
    assert out.dtype == np.uint8


def test_foreign_textures_keep_shape_and_range() -> None:
    image = np.random.default_rng(0).integers(0, 256, (3, 20, 31), dtype=np.uint8)
    for seed in range(30):
        out = foreign(image, np.random.default_rng(seed))
        assert out.shape == image.shape
        assert out.dtype == np.float32
        assert out.min() >= 0
        assert out.max() <= 255
        assert not np.array_equal(out, image)


def test_corruption_stays_within_what_counts() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32), dtype=np.uint8)
    inside = np.zeros((32, 32), bool)
    inside[:, 20:] = True
    for seed in range(20):
        seen, where = corrupted(images, 1, np.random.default_rng(seed), 1.0, inside=inside)
        assert where.any()
        assert not where[:, :20].any()
        np.testing.assert_array_equal(seen[:, ~where], images[1][:, ~where])
    same, nowhere = corrupted(images, 1, np.random.default_rng(0), 0.0)
    np.testing.assert_array_equal(same, images[1])
    assert not nowhere.any()
