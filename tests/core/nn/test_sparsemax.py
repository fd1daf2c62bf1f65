"""Sparsemax attention projects onto the simplex exactly, forward and backward, a block of queries at a time."""

import entmax
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dreamlm.core.nn import sparsemax
from dreamlm.core.nn.sparsemax import simplex_threshold, sparsemax_attention
from dreamlm.core.nn.visibility import Whole

ROWS, HEADS, WIDTH = 2, 3, 8


def sorted_projection(scores: list[float]) -> list[float]:
    """The algorithm of Martins & Astudillo 2016, one row, by sorting."""
    total, threshold = 0.0, 0.0
    for number, score in enumerate(sorted(scores, reverse=True), start=1):
        total += score
        if 1 + number * score > total:
            threshold = (total - 1) / number
    return [max(score - threshold, 0.0) for score in scores]


def weights_of(scores: Tensor) -> Tensor:
    scores = scores - scores.amax(dim=-1, keepdim=True)
    return (scores - simplex_threshold(scores)).relu()


def inputs(queries: int, keys: int, scale: float = 1.0) -> list[Tensor]:
    random = torch.Generator().manual_seed(0)
    shapes = [(ROWS, HEADS, queries, WIDTH), (ROWS, HEADS, keys, WIDTH), (ROWS, HEADS, keys, WIDTH)]
    return [(torch.randn(shape, generator=random) * scale).requires_grad_() for shape in shapes]


def causal(queries: int, keys: int) -> Tensor:
    return torch.ones(1, 1, queries, keys, dtype=torch.bool).tril(keys - queries)


def by_entmax(query: Tensor, key: Tensor, value: Tensor, visible: Tensor) -> Tensor:
    scores = (query @ key.mT * WIDTH**-0.5).masked_fill(~visible, -1e9)
    return entmax.sparsemax(scores, dim=-1) @ value


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=40))
@settings(max_examples=200)
def test_weights_are_the_projection_found_by_sorting(scores: list[float]) -> None:
    ours = weights_of(torch.tensor(scores, dtype=torch.float64))
    torch.testing.assert_close(ours.tolist(), sorted_projection(scores), atol=1e-9, rtol=0.0)
    assert ours.sum().item() == pytest.approx(1.0)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 100.0])
@pytest.mark.parametrize("length", [1, 7, 300])
def test_weights_equal_those_of_entmax(length: int, scale: float) -> None:
    scores = torch.randn(50, length, generator=torch.Generator().manual_seed(1)) * scale
    torch.testing.assert_close(weights_of(scores), entmax.sparsemax(scores, dim=-1), atol=2e-5, rtol=0.0)


def test_ties_share_and_hidden_scores_get_nothing() -> None:
    scores = torch.tensor([[5.0, 5.0, 5.0, 5.0], [0.0, -torch.inf, 0.5, -9.0], [3.0, 1.9, -torch.inf, 0.0]])
    expected = torch.tensor([[0.25, 0.25, 0.25, 0.25], [0.25, 0.0, 0.75, 0.0], [1.0, 0.0, 0.0, 0.0]])
    torch.testing.assert_close(weights_of(scores), expected)


@pytest.mark.parametrize("block", [1, 5, 1 << 22])
@pytest.mark.parametrize("shape", ["causal", "one query", "masked", "masked per row"])
def test_attention_and_its_gradients_equal_those_through_entmax(
    shape: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries, keys = (1, 13) if shape == "one query" else (9, 9) if shape == "causal" else (9, 13)
    monkeypatch.setattr(sparsemax, "BLOCK_SCORES", block * ROWS * HEADS * keys)
    visible = causal(queries, keys)
    if shape == "masked per row":
        random = torch.rand(ROWS, 1, queries, keys, generator=torch.Generator().manual_seed(2))
        visible = visible & (random < 0.6) | torch.eye(queries, keys, dtype=torch.bool)
    given_mask = Whole(visible) if shape.startswith("masked") else None
    results = []
    for attend in (
        lambda *three: sparsemax_attention(*three, given_mask, WIDTH**-0.5),
        lambda *three: by_entmax(*three, visible),
    ):
        three = inputs(queries, keys, scale=1.5)
        mixed = attend(*three)
        (mixed * torch.linspace(-1, 1, WIDTH)).square().sum().backward()
        results.append([mixed, *(one.grad for one in three)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)


def test_a_query_that_may_see_nothing_gets_nothing_and_stays_finite() -> None:
    three = inputs(4, 4)
    visible = causal(4, 4)
    visible[..., 2, :] = False
    mixed = sparsemax_attention(*three, Whole(visible), 1.0)
    mixed.square().sum().backward()
    assert not mixed[:, :, 2].any()
    assert mixed[:, :, [0, 1, 3]].any(dim=-1).all()
    assert all(one.grad.isfinite().all() for one in three)


def test_enormous_scores_pick_the_highest() -> None:
    query, key, value = inputs(6, 6, scale=1e4)
    best = (query @ key.mT).masked_fill(~causal(6, 6), -torch.inf).argmax(dim=-1)
    mixed = sparsemax_attention(query, key, value, None, 1.0)
    torch.testing.assert_close(mixed, value.gather(2, best[..., None].expand(-1, -1, -1, WIDTH)))


def test_bf16_goes_in_and_out_with_fp32_between() -> None:
    three = [one.detach().bfloat16().requires_grad_() for one in inputs(9, 9)]
    with torch.autocast("cpu", torch.bfloat16):
        mixed = sparsemax_attention(*three, None, WIDTH**-0.5)
    mixed.sum().backward()
    exact = sparsemax_attention(*(one.detach().float() for one in three), None, WIDTH**-0.5)
    assert mixed.dtype == three[0].grad.dtype == torch.bfloat16
    assert torch.equal(mixed, exact.bfloat16())


def test_no_more_than_a_block_of_scores_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    length, limit = 64, ROWS * HEADS * 64 * 4
    sizes = []
    plain = sparsemax._scores

    def counted(*arguments: object) -> Tensor:
        scores = plain(*arguments)
        sizes.append(scores.numel())
        return scores

    monkeypatch.setattr(sparsemax, "BLOCK_SCORES", limit)
    monkeypatch.setattr(sparsemax, "_scores", counted)
    mixed = sparsemax_attention(*inputs(length, length), None, 1.0)
    saved = sum(tensor.numel() for tensor in mixed.grad_fn.saved_tensors if tensor is not None)
    mixed.sum().backward()
    assert max(sizes) <= limit
    # Half of the square is above the diagonal; a block computes no key that none of its queries sees.
    assert sum(sizes) / 2 < 0.55 * ROWS * HEADS * length**2
    assert saved == 3 * ROWS * HEADS * length * WIDTH + ROWS * HEADS * length
