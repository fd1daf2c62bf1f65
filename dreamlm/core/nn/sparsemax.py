"""Attention whose weights are the projection of the scores onto the simplex: most of them are exactly zero.

Shapes: B rows, H heads, T queries, C queries of a block, S keys, K width of a head, J width of a value.
"""

from collections.abc import Iterator
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from dreamlm.core.nn.visibility import Visibility

BLOCK_SCORES = 1 << 22
"""Scores held at once, for rows times heads times queries of a block times keys: about 16 MB in fp32."""


def sparsemax_attention(
    query_BHTK: Float[Tensor, "B H T K"],
    key_BHSK: Float[Tensor, "B H S K"],
    value_BHSJ: Float[Tensor, "B H S J"],
    visible: Visibility | None,
    scale: float,
) -> Float[Tensor, "B H T J"]:
    """sparsemax(scale * q k^T) v, in fp32 inside; a query that may see nothing gets 0.

    visible: which keys a query may attend to; None is the causal triangle, the last query seeing every key.

    Source: Martins & Astudillo 2016.  Departs: weights are not kept for the backward pass but computed again from each
    query's threshold, as flash attention does from its normaliser.  Cost: O(T * S) time, O(T) memory beside one block.
    """
    mixed: Tensor = _SparsemaxAttention.apply(query_BHTK, key_BHSK, value_BHSJ, visible, scale)  # type: ignore[no-untyped-call]
    return mixed


def simplex_threshold(scores: Float[Tensor, "*B S"]) -> Float[Tensor, "*B 1"]:
    """The t for which relu(scores - t) sums to 1 over the last dimension, for scores whose highest is 0.

    Starts with every score that could be in the support, those above -1, and drops what lies under the threshold of
    the rest until nothing does: exact up to rounding.  Source: Michelot 1986.
    Cost: O(S) for each of a few rounds; at worst S rounds.
    """
    support = scores > -1
    count = support.sum(dim=-1, keepdim=True)
    while True:
        threshold = (torch.where(support, scores, 0).sum(dim=-1, keepdim=True) - 1) / count.clamp(min=1)
        support = support & (scores > threshold)
        before, count = count, support.sum(dim=-1, keepdim=True)
        if torch.equal(before, count):
            return threshold


@final
class _SparsemaxAttention(torch.autograd.Function):
    """Saves queries, keys, values and one threshold for each query."""

    @staticmethod
    def forward(
        ctx: Any,
        query_BHTK: Tensor,
        key_BHSK: Tensor,
        value_BHSJ: Tensor,
        visible: Visibility | None,
        scale: float,
    ) -> Tensor:
        with torch.autocast(query_BHTK.device.type, enabled=False):
            mixed, thresholds = [], []
            for queries, keys in _blocks(query_BHTK, key_BHSK, visible):
                scores_BHCS = _scores(query_BHTK, key_BHSK, visible, scale, queries, keys)
                threshold_BHC1 = simplex_threshold(scores_BHCS)
                weights_BHCS = (scores_BHCS - threshold_BHC1).relu_()
                mixed.append((weights_BHCS @ value_BHSJ[:, :, keys].float()).to(value_BHSJ.dtype))
                thresholds.append(threshold_BHC1)
        ctx.save_for_backward(query_BHTK, key_BHSK, value_BHSJ, torch.cat(thresholds, dim=2))
        ctx.visible, ctx.scale = visible, scale
        return torch.cat(mixed, dim=2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        """The projection's derivative at its support of n: identity less 1/n everywhere; zero outside."""
        query_BHTK, key_BHSK, value_BHSJ, threshold_BHT1 = ctx.saved_tensors
        grad_query_BHTK = torch.empty_like(query_BHTK)
        grad_key_BHSK = torch.zeros_like(key_BHSK, dtype=torch.float32)
        grad_value_BHSJ = torch.zeros_like(value_BHSJ, dtype=torch.float32)
        for queries, keys in _blocks(query_BHTK, key_BHSK, ctx.visible):
            grad_mixed_BHCJ = grad_outputs[0][:, :, queries].float()
            scores_BHCS = _scores(query_BHTK, key_BHSK, ctx.visible, ctx.scale, queries, keys)
            weights_BHCS = scores_BHCS.sub_(threshold_BHT1[:, :, queries]).relu_()
            grad_value_BHSJ[:, :, keys] += weights_BHCS.mT @ grad_mixed_BHCJ
            support_BHCS = weights_BHCS > 0
            grad_BHCS = torch.where(support_BHCS, grad_mixed_BHCJ @ value_BHSJ[:, :, keys].float().mT, 0)
            count_BHC1 = support_BHCS.sum(dim=-1, keepdim=True).clamp_(min=1)
            grad_BHCS -= grad_BHCS.sum(dim=-1, keepdim=True) / count_BHC1
            grad_BHCS *= support_BHCS * ctx.scale
            grad_query_BHTK[:, :, queries] = grad_BHCS @ key_BHSK[:, :, keys].float()
            grad_key_BHSK[:, :, keys] += grad_BHCS.mT @ query_BHTK[:, :, queries].float()
        return grad_query_BHTK, grad_key_BHSK.to(key_BHSK.dtype), grad_value_BHSJ.to(value_BHSJ.dtype), None, None


def _blocks(query_BHTK: Tensor, key_BHSK: Tensor, visible: Visibility | None) -> Iterator[tuple[slice, slice]]:
    """Queries that are computed together, and the keys that any of them may see."""
    rows, heads, length = query_BHTK.shape[:3]
    seen = key_BHSK.shape[2]
    size = max(1, BLOCK_SCORES // (rows * heads * seen))
    for begin in range(0, length, size):
        end = min(length, begin + size)
        yield slice(begin, end), slice(0, seen if visible is not None else seen - length + end)


def _scores(
    query_BHTK: Tensor, key_BHSK: Tensor, visible: Visibility | None, scale: float, queries: slice, keys: slice
) -> Float[Tensor, "B H C S"]:
    """Less each query's highest, without which large scores have no digits left for weights; -inf where hidden."""
    scores_BHCS = (query_BHTK[:, :, queries].float() * scale) @ key_BHSK[:, :, keys].float().mT
    if visible is None:
        past, device = key_BHSK.shape[2] - query_BHTK.shape[2], query_BHTK.device
        query_C = torch.arange(past + queries.start, past + queries.stop, device=device)
        hidden = torch.arange(keys.stop, device=device) > query_C[:, None]
    else:
        hidden = ~visible.mask(queries, keys)
    scores_BHCS.masked_fill_(hidden, -torch.inf)
    highest_BHC1 = scores_BHCS.amax(dim=-1, keepdim=True)
    return scores_BHCS.sub_(highest_BHC1.clamp_(min=torch.finfo(torch.float32).min))
