import numpy as np
import pytest
import torch

from pipeline.parts.attention import MLP, Attention, Block, linear_attention, relu_attention
from pipeline.parts.device import seeded


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def phi(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x + 1, np.exp(np.minimum(x, 0)))


def test_linear_attention_equals_its_quadratic_form() -> None:
    q, k, v = drawn(2, 3, 5, 4), drawn(2, 3, 7, 4, seed=1), drawn(2, 3, 7, 4, seed=2)
    weights = phi(q.numpy()) @ phi(k.numpy()).swapaxes(-1, -2)  # (2, 3, 5, 7), query by key
    expected = weights / weights.sum(axis=-1, keepdims=True) @ v.numpy()
    np.testing.assert_allclose(linear_attention(q, k, v), expected, rtol=1e-10)


def test_keys_that_do_not_count_are_as_if_not_there() -> None:
    q, k, v = drawn(2, 3, 5, 4), drawn(2, 3, 7, 4, seed=1), drawn(2, 3, 7, 4, seed=2)
    mask = torch.tensor([1, 1, 0, 1, 0, 1, 1]).bool()
    for kind in (linear_attention, relu_attention):
        masked = kind(q, k, v, mask[None, None, None])
        torch.testing.assert_close(masked, kind(q, k[:, :, mask], v[:, :, mask]), rtol=1e-10, atol=1e-12)
        assert not torch.allclose(masked, kind(q, k, v))


def test_relu_attention_by_hand() -> None:
    q = torch.tensor([[3.0, 0.0, 0.0, 4.0], [-2.0, 0.0, 0.0, 0.0]])
    k, v = torch.eye(4)[[0, 3]], torch.tensor([[1.0, 10.0], [100.0, 0.0]])
    # weights (3, 4) / 2 of the first query; the second points away from every key and gets nothing
    torch.testing.assert_close(relu_attention(q, k, v), torch.tensor([[201.5, 15.0], [0.0, 0.0]]))


@pytest.mark.parametrize("kind", ["softmax", "linear", "relu"])
def test_a_masked_context_is_not_seen(kind: str) -> None:
    with seeded(0):
        attention = Attention(8, 2, kind).double()
    x, context, mask = drawn(2, 5, 8), drawn(2, 6, 8, seed=1), torch.tensor([1, 0, 1, 1, 0, 1]).bool()
    spoiled = context.clone()
    spoiled[:, ~mask] += 5
    found, other = (attention(x, c, mask[None, None, None]) for c in (context, spoiled))
    assert found.shape == (2, 5, 8)
    torch.testing.assert_close(found, other, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(attention(x, context), attention(x, spoiled))


def test_attention_of_one_head_by_hand_and_to_itself() -> None:
    with seeded(1):
        attention = Attention(4, 1).double()
    x = drawn(1, 3, 4)
    (wq, bq), (w, b), (wo, bo) = (
        (layer.weight.detach().numpy(), layer.bias.detach().numpy())
        for layer in (attention.query, attention.both, attention.out)
    )
    q, both = x[0].numpy() @ wq.T + bq, x[0].numpy() @ w.T + b
    weights = np.exp(q @ both[:, :4].T / 2)  # sqrt of 4
    expected = weights / weights.sum(axis=1, keepdims=True) @ both[:, 4:] @ wo.T + bo
    np.testing.assert_allclose(attention(x)[0].detach(), expected, rtol=1e-8)


def test_a_query_that_may_look_at_itself_alone_learns_nothing_of_others() -> None:
    with seeded(2):
        block = Block(8, 2).double()
    x, own = drawn(1, 4, 8), torch.eye(4).bool()[None, None]
    changed = x.clone()
    changed[:, 1:] *= -1
    torch.testing.assert_close(block(x, mask=own)[:, 0], block(changed, mask=own)[:, 0])
    assert not torch.allclose(block(x)[:, 0], block(changed)[:, 0])


def test_dropout_is_of_training_alone() -> None:
    with seeded(3):
        mlp = MLP(4, 8, drop=0.9).double()
        noisy = mlp(torch.ones(50, 4, dtype=torch.float64))
    assert (noisy == 0).double().mean() > 0.5
    quiet = mlp.eval()(torch.ones(5, 4, dtype=torch.float64))
    torch.testing.assert_close(quiet, quiet[:1].expand(5, 4))
