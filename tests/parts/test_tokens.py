import numpy as np
import pytest
import torch

from pipeline.errors import DataError
from pipeline.parts import tokens


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_laid_out_inverts_tokens() -> None:
    maps = drawn(2, 3, 4, 5)
    found = tokens.tokens(maps)
    assert found.shape == (2, 20, 3)
    assert torch.equal(found[1, 7], maps[1, :, 1, 2])  # row by row
    assert torch.equal(tokens.laid_out(found, (4, 5)), maps)


def test_levels_come_to_the_coarsest_grid_by_means() -> None:
    fine, coarse = drawn(2, 3, 4, 6), drawn(2, 5, 2, 3)
    found = tokens.on_grid([fine, coarse])
    assert torch.equal(found[1], coarse)
    means = fine.view(2, 3, 2, 2, 3, 2).mean(dim=(3, 5))
    torch.testing.assert_close(found[0], means)


def test_a_grid_may_be_named() -> None:
    ramp = torch.arange(4.0).expand(1, 1, 4, 4)
    (found,) = tokens.on_grid([ramp], (8, 8))
    np.testing.assert_allclose(found[0, 0, 3], [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3])


@pytest.mark.parametrize(("shape", "grid", "said"), [((1, 9), None, "1 x 9"), ((8, 8), (2, 1), "2 x 1")])
def test_a_backbone_without_tokens_is_refused(shape: tuple[int, int], grid: tuple[int, int], said: str) -> None:
    with pytest.raises(DataError, match=f"gives {said} tokens of an image, at least 2 x 2 are needed: take finer"):
        tokens.on_grid([drawn(1, 2, 16, 16), drawn(1, 2, *shape)], grid)


def test_cosine_distance_of_angles() -> None:
    a = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [3.0, 4.0]])
    b = torch.tensor([[7.0, 0.0], [0.0, 2.0], [-1.0, 0.0], [1.0, 0.0]])
    np.testing.assert_allclose(tokens.cosine_distance(a, b), [0, 1, 2, 0.4], atol=1e-6)


def test_tokens_of_which_nothing_is_seen_are_alike() -> None:
    a, b, inside = drawn(1, 8, 2, 2), drawn(1, 8, 2, 2, seed=1), torch.tensor([[[1, 1], [1, 0]]]).bool()
    a[..., 0, 1], b[..., 0, 1] = 1e-4 * a[..., 0, 1], 1e-4 * b[..., 0, 1]
    u, v = (x[0].flatten(1).numpy() for x in (a, b))
    more = [0.2 * np.sqrt((x[:, :3] ** 2).sum(axis=0).mean()) for x in (u, v)]  # of the tokens that count
    u, v = (np.r_[x, np.full((1, 4), one)] for x, one in zip((u, v), more, strict=True))
    expected = 1 - (u * v).sum(axis=0) / np.linalg.norm(u, axis=0) / np.linalg.norm(v, axis=0)
    found = tokens.apart(a, b, inside)
    np.testing.assert_allclose(found[0].flatten(), expected, rtol=1e-4, atol=1e-6)
    assert found[0, 0, 1] < 1e-5 < 0.1 < found[0, 0, 0]
    torch.testing.assert_close(tokens.apart(3 * a, 0.1 * b, inside), found)  # how long all are says nothing
    assert tokens.apart(0 * a, 0 * b, inside).isfinite().all()


def test_runs_are_even_and_never_empty() -> None:
    assert [list(run) for run in tokens.runs(8, 2)] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert [list(run) for run in tokens.runs(5, 2)] == [[0, 1], [2, 3, 4]]
    assert [list(run) for run in tokens.runs(2, 4)] == [[0], [0], [1], [1]]


def test_blocks_of_a_vit_are_grouped_and_levels_of_a_cnn_are_not() -> None:
    blocks = [drawn(2, 3, 4, 4, seed=i) for i in range(4)]
    first, second = tokens.grouped(blocks, 2)
    torch.testing.assert_close(first, (blocks[0] + blocks[1]) / 2)
    torch.testing.assert_close(second, (blocks[2] + blocks[3]) / 2)
    assert len(tokens.grouped(blocks, 9)) == 4
    levels = [drawn(2, 3, 4, 4), drawn(2, 6, 2, 2)]
    assert tokens.grouped(levels, 1) == levels


def test_a_flat_cosine_looks_at_what_counts_alone() -> None:
    a, b = drawn(2, 3, 2, 2), drawn(2, 3, 2, 2, seed=1)
    inside = torch.tensor([[[1, 0], [1, 1]], [[0, 0], [0, 1]]]).bool()
    expected = []
    for one, other, counts in zip(a, b, inside, strict=True):
        u, v = one[:, counts].flatten().numpy(), other[:, counts].flatten().numpy()
        expected.append(1 - u @ v / np.linalg.norm(u) / np.linalg.norm(v))
    assert tokens.flat_cosine(a, b, inside).item() == pytest.approx(np.mean(expected), rel=1e-5)


def test_a_gradient_is_multiplied_and_the_value_is_not() -> None:
    x = drawn(3, 2).requires_grad_()
    factor = torch.tensor([[0.1], [1.0], [0.0]])
    found = tokens.with_gradient(x, factor)
    torch.testing.assert_close(found, x)
    (found**2).sum().backward()
    torch.testing.assert_close(x.grad, 2 * x.detach() * factor)
    assert torch.equal(tokens.with_gradient(x, torch.tensor(1e8)), x)  # however large the factor
