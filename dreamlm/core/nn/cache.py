"""Keys and values of past tokens, with the semantics of an immutable value and the cost of an append.

An append writes behind the end of a buffer that older values share; they do not see it, because each knows its own
length. Two appends to the same value copy first, so no branch ever overwrites another.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


class _Buffer:
    """Storage that several `KeyValueCache` values share; `written` is how far any of them has used it."""

    def __init__(self, key: Tensor, value: Tensor, written: int) -> None:
        self.key, self.value, self.written = key, value, written


@dataclass(frozen=True)
class KeyValueCache:
    """Keys and values (B, G, P, K) of one attention layer.

    Cost of `append`: amortised O(new tokens) without gradient, O(all tokens) with it.
    """

    buffer: _Buffer
    length: int

    @classmethod
    def empty(cls, rows: int, heads: int, width: int, device: torch.device) -> "KeyValueCache":
        nothing = torch.empty(rows, heads, 0, width, device=device)
        return cls(_Buffer(nothing, nothing, 0), 0)

    @classmethod
    def of(cls, key_BGTK: Float[Tensor, "B G T K"], value_BGTK: Float[Tensor, "B G T K"]) -> "KeyValueCache":
        length = key_BGTK.shape[2]
        return cls(_Buffer(key_BGTK, value_BGTK, length), length)

    @property
    def key(self) -> Float[Tensor, "B G P K"]:
        return self.buffer.key[:, :, : self.length]

    @property
    def value(self) -> Float[Tensor, "B G P K"]:
        return self.buffer.value[:, :, : self.length]

    def append(self, key_BGTK: Float[Tensor, "B G T K"], value_BGTK: Float[Tensor, "B G T K"]) -> "KeyValueCache":
        """The cache with the tokens behind its own; this one stays as it is."""
        if self.length == 0:
            return KeyValueCache.of(key_BGTK, value_BGTK)
        if torch.is_grad_enabled():
            return KeyValueCache.of(torch.cat([self.key, key_BGTK], 2), torch.cat([self.value, value_BGTK], 2))
        length = self.length + key_BGTK.shape[2]
        buffer = self.buffer
        if buffer.written != self.length or buffer.key.shape[2] < length or not writable(buffer.key):
            buffer = _Buffer(_grown(self.key, length), _grown(self.value, length), self.length)
        buffer.key[:, :, self.length : length] = key_BGTK
        buffer.value[:, :, self.length : length] = value_BGTK
        buffer.written = length
        return KeyValueCache(buffer, length)

    def select(self, rows: Int[Tensor, " R"]) -> "KeyValueCache":
        return KeyValueCache.of(self.key[rows], self.value[rows])

    def glimpse(self) -> "Glimpse":
        """The cache for readers that leave nothing behind."""
        return Glimpse(self)


@dataclass(frozen=True)
class Glimpse:
    """A cache that is looked at together with tokens which never join it, any number of times."""

    cache: KeyValueCache

    def append(self, key_BGTK: Float[Tensor, "B G T K"], value_BGTK: Float[Tensor, "B G T K"]) -> KeyValueCache:
        """The cache with the tokens behind its own, to be used before the next call."""
        past = self.cache
        if past.length == 0:
            return KeyValueCache.of(key_BGTK, value_BGTK)
        buffer, length = past.buffer, past.length + key_BGTK.shape[2]
        fits = buffer.written == past.length and buffer.key.shape[2] >= length
        if torch.is_grad_enabled() or not fits or not writable(buffer.key):
            return KeyValueCache.of(torch.cat([past.key, key_BGTK], 2), torch.cat([past.value, value_BGTK], 2))
        # Behind the end of what anybody has written, where the next append to the cache will write over it.
        buffer.key[:, :, past.length : length] = key_BGTK
        buffer.value[:, :, past.length : length] = value_BGTK
        return KeyValueCache(_Buffer(buffer.key, buffer.value, length), length)


def writable(tensor: Tensor) -> bool:
    """Whether torch lets values of it be replaced here: what inference mode has made, outside of it may not be."""
    return torch.is_inference_mode_enabled() or not tensor.is_inference()


def _grown(past: Tensor, length: int) -> Tensor:
    rows, heads, used, width = past.shape
    grown = past.new_empty(rows, heads, max(2 * used, length, 64), width)
    grown[:, :, :used] = past
    return grown
