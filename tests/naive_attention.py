"""Attention of one query after the other, head by head, in plain words."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from dreamlm.core.nn.pooling import LearnedQueries


def attended(query: Tensor, keys: Sequence[Tensor], values: Sequence[Tensor], num_heads: int) -> Tensor:
    parts = []
    for head in torch.arange(len(query)).chunk(num_heads):
        scores = torch.stack([query[head] @ key[head] for key in keys]) / math.sqrt(len(head))
        parts.append(sum(weight * value[head] for weight, value in zip(scores.softmax(dim=0), values, strict=True)))
    return torch.cat(parts)


def found_by_queries(
    pooling: LearnedQueries, keys: Sequence[Tensor], values: Sequence[Tensor], moved: Tensor | None = None
) -> list[Tensor]:
    """What each learned query finds; `moved` is what is added to each of them, once they are of RMS 1."""
    heads, found = pooling.num_heads, []
    for number, query in enumerate(pooling.query):
        unit = query / query.square().mean().sqrt() + (0 if moved is None else moved[number])
        asked = pooling.gain * _by_head(unit, heads, pooling.epsilon)
        found.append(attended(asked, [_by_head(key, heads, pooling.epsilon) for key in keys], values, heads))
    return found


def _by_head(vector: Tensor, num_heads: int, epsilon: float) -> Tensor:
    return torch.cat([part / (part.square().mean() + epsilon).sqrt() for part in vector.chunk(num_heads)])
