import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch.nn import functional as F

from pipeline.parts.regions import counted, enlarged, largest, pooled, top_mean
from tests.pictures import SIDE, stripes, view, whole

CPU = torch.device("cpu")


def test_a_position_counts_where_half_its_pixels_do() -> None:
    region = np.zeros((3, SIDE, SIDE), bool)
    region[0, :, : SIDE // 2] = True
    region[1, :, : SIDE // 4] = True  # half of the left positions
    region[2, 0, 0] = True  # less than half of any: the fullest counts still
    inside = counted(whole(view(stripes(3, 0), region=region)), (2, 2), CPU)
    assert inside.tolist() == [[[True, False]] * 2, [[True, False]] * 2, [[True, False], [False, False]]]
    assert counted(whole(view(stripes(2, 0))), (3, 5), CPU).all()


def test_means_and_largest_leave_out_what_does_not_count() -> None:
    maps = torch.tensor([[[1.0, 2.0], [3.0, 100.0]]])
    inside = torch.tensor([[[True, True], [True, False]]])
    assert largest(maps, inside).tolist() == [3.0]
    assert pooled(maps[:, None], inside).tolist() == [[2.0]]


def test_enlarging_is_bilinear_and_a_blur() -> None:
    maps = torch.rand(2, 7, 5, generator=torch.Generator().manual_seed(0))
    all_of_it = torch.ones(2, 7, 5, dtype=torch.bool)
    bilinear = F.interpolate(maps[:, None], (56, 40), mode="bilinear", align_corners=False)[:, 0].numpy()
    np.testing.assert_allclose(enlarged(maps, (56, 40), 0.0, all_of_it), bilinear, atol=1e-5)
    blurred = gaussian_filter(bilinear, (0, 2, 2), mode="mirror")
    np.testing.assert_allclose(enlarged(maps, (56, 40), 2 / 40, all_of_it), blurred, atol=2e-3)


def test_what_does_not_count_lends_nothing() -> None:
    maps, inside = torch.ones(1, 8, 8), torch.ones(1, 8, 8, dtype=torch.bool)
    inside[:, :, 4:] = False
    maps[:, :, 4:] = 1000
    found = enlarged(maps, (32, 32), 0.05, inside)
    np.testing.assert_allclose(found[0, :, :16], 1, rtol=1e-5)


def test_the_mean_of_the_top_takes_a_share_of_what_counts_and_one_at_least() -> None:
    maps = torch.arange(8.0).view(2, 2, 2)
    inside = torch.tensor([[[True, True], [True, False]], [[True, True], [True, True]]])
    np.testing.assert_allclose(top_mean(maps, inside, 0.5), [(2 + 1) / 2, (7 + 6) / 2])  # of 3 values 2, of 4 also 2
    np.testing.assert_allclose(top_mean(maps, inside, 0.01), [2, 7])
    np.testing.assert_allclose(top_mean(maps, inside, 1.0), [1, 5.5])
