"""Which tokens a token attends to, told for some queries at a time: no long window needs a mask of T x S.

Shapes: B rows, T tokens, S past and present tokens, C queries of a stretch, Z keys of a stretch.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Int
from torch import Tensor

AT_ONCE = 1 << 20
"""Pairs of query and key of a row whose mask is held in one piece: those of a window of 1,024 tokens."""
QUERIES = 256
"""Queries of a stretch."""
KEYS = 512
"""Keys of a stretch begin and end at multiples of so many: torch's CPU kernel sums them up in blocks of that size, so
that leaving out whole blocks which nobody sees changes no bit of the result."""


class Visibility(ABC):
    """Which keys, the past's and then the present's, each query attends to; every query to at least one."""

    @abstractmethod
    def stretches(self) -> Sequence[tuple[slice, slice]]:
        """Queries, in their order, and keys among which are all that any of them sees."""

    @abstractmethod
    def mask(self, queries: slice, keys: slice) -> Bool[Tensor, "#B 1 C Z"]:
        """Whether each of the queries attends to each of the keys."""


@final
@dataclass(frozen=True)
class Whole(Visibility):
    """A mask that is held in one piece, for all layers."""

    mask_B1TS: Bool[Tensor, "#B 1 T S"]

    def stretches(self) -> Sequence[tuple[slice, slice]]:
        length, seen = self.mask_B1TS.shape[2:]
        return [(slice(0, length), slice(0, seen))]

    def mask(self, queries: slice, keys: slice) -> Bool[Tensor, "#B 1 C Z"]:
        return self.mask_B1TS[:, :, queries, keys]


@final
@dataclass(frozen=True)
class InStretches(Visibility):
    """A mask that is never held: each layer makes it again, stretch by stretch."""

    seen_BS: Int[Tensor, "#B S"]
    past: int
    cuts: Sequence[tuple[slice, slice]]

    def stretches(self) -> Sequence[tuple[slice, slice]]:
        return self.cuts

    def mask(self, queries: slice, keys: slice) -> Bool[Tensor, "#B 1 C Z"]:
        return _mask(self.seen_BS, self.past, queries, keys)


def visibility(seen_BS: Int[Tensor, "#B S"], past: int) -> Visibility:
    """Of the tokens behind the first `past` of S: each sees itself, and what stands before it in its document.

    seen_BS: document of each token, as in `DreamLM.forward`.
    Cost: in long windows the device is waited for once, for where documents begin.
    """
    seen = seen_BS.shape[1]
    if (seen - past) * seen <= AT_ONCE:
        return Whole(_mask(seen_BS, past, slice(0, seen - past), slice(0, seen)))
    return InStretches(seen_BS, past, tuple(_cuts(seen_BS, past)))


def _cuts(seen_BS: Int[Tensor, "#B S"], past: int) -> Iterator[tuple[slice, slice]]:
    seen, column_S = seen_BS.shape[1], torch.arange(seen_BS.shape[1], device=seen_BS.device)
    latest_BS = seen_BS.cummax(dim=1).values
    begins_BS = latest_BS != latest_BS.roll(1, dims=1)
    begin_BS = torch.where(begins_BS, column_S, 0).cummax(dim=1).values
    for number, first in enumerate(begin_BS.amin(dim=0)[past::QUERIES].tolist()):
        begin = QUERIES * number
        end = min(begin + QUERIES, seen - past)
        yield slice(begin, end), slice(first // KEYS * KEYS, min(-(-(past + end) // KEYS) * KEYS, seen))


def _mask(seen_BS: Int[Tensor, "#B S"], past: int, queries: slice, keys: slice) -> Bool[Tensor, "#B 1 C Z"]:
    column_S = torch.arange(seen_BS.shape[1], device=seen_BS.device)
    present = slice(past + queries.start, past + queries.stop)
    query_C1, key_Z = column_S[present, None], column_S[keys]
    document_BC1 = seen_BS[:, present, None]
    before_BCZ = (document_BC1 >= 0) & (document_BC1 == seen_BS[:, None, keys]) & (key_Z < query_C1)
    # Padding sees itself alone: an empty row would be a softmax over nothing.
    return (before_BCZ | (key_Z == query_C1))[:, None]
