"""Causal self-attention over the whole past, with grouped key/value heads."""

from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from dreamlm.core.nn.cache import Glimpse, KeyValueCache
from dreamlm.core.nn.norm import NormName, build_norm
from dreamlm.core.nn.signal import Segment
from dreamlm.core.nn.sparsemax import sparsemax_attention
from dreamlm.core.nn.visibility import Visibility

AttentionActivation = Literal["softmax", "sparsemax"]


class Attention(nn.Module):
    """activation(q k^T / sqrt(K)) v over the tokens a token may see; never holds the T x T weights.

    A gated head's mixture is multiplied by 2 sigmoid(w x), which is 1 where the gate has no opinion on the token x.

    Source: Vaswani et al. 2017; grouped heads: Ainslie et al. 2023; QK-norm: Henry et al. 2020 (per head);
    gate: Qiu et al. 2025, "Gated Attention for Large Language Models" (theirs is without the 2).
    """

    def __init__(
        self,
        layer: int,
        hidden_size: int,
        num_heads: int,
        num_kv_heads: int,
        head_size: int,
        activation: AttentionActivation,
        gated: bool,
        qk_norm: bool,
        norm: NormName,
        norm_epsilon: float,
    ) -> None:
        """layer: number of the layer it belongs to, whose placement it asks for."""
        super().__init__()
        self.layer = layer
        self.num_heads, self.num_kv_heads, self.head_size = num_heads, num_kv_heads, head_size
        self._mix = {"softmax": _softmax_attention, "sparsemax": sparsemax_attention}[activation]
        self.query = nn.Linear(hidden_size, num_heads * head_size, bias=False)
        self.key = nn.Linear(hidden_size, num_kv_heads * head_size, bias=False)
        self.value = nn.Linear(hidden_size, num_kv_heads * head_size, bias=False)
        self.gate = nn.Linear(hidden_size, num_heads, bias=False) if gated else None
        self.output = nn.Linear(num_heads * head_size, hidden_size, bias=False)
        self.query_norm = build_norm(norm, head_size, norm_epsilon) if qk_norm else nn.Identity()
        self.key_norm = build_norm(norm, head_size, norm_epsilon) if qk_norm else nn.Identity()

    def forward(
        self, hidden_BTD: Tensor, segment: Segment, past: KeyValueCache | Glimpse
    ) -> tuple[Tensor, KeyValueCache]:
        """Mixed hidden vectors (B, T, D), and the cache with this segment's keys and values behind the past's."""
        query_BHTK = segment.placement.query(self.query_norm(self._heads(self.query(hidden_BTD))), self.layer)
        cache = self.remember(hidden_BTD, segment, past)
        mixed_BHTK = self._mix(
            query_BHTK,
            self._for_every_head(cache.key),
            self._for_every_head(cache.value),
            segment.visible,
            self.head_size**-0.5,
        )
        mixed_BTHK = mixed_BHTK[..., : self.head_size].transpose(1, 2)
        if self.gate is not None:
            mixed_BTHK = mixed_BTHK * (2 * torch.sigmoid(self.gate(hidden_BTD)))[..., None]
        mixed: Tensor = self.output(mixed_BTHK.flatten(2))
        return mixed, cache

    def remember(self, hidden_BTD: Tensor, segment: Segment, past: KeyValueCache | Glimpse) -> KeyValueCache:
        """The cache with this segment's keys and values behind the past's."""
        key_BGTK = segment.placement.key(self.key_norm(self._heads(self.key(hidden_BTD))), self.layer)
        value_BGTK = _as_wide_as(key_BGTK, self._heads(self.value(hidden_BTD)))
        return past.append(key_BGTK, value_BGTK)

    def _heads(self, projected_BTX: Tensor) -> Tensor:
        rows, length, width = projected_BTX.shape
        return projected_BTX.view(rows, length, width // self.head_size, self.head_size).transpose(1, 2)

    def _for_every_head(self, heads_BGTK: Tensor) -> Tensor:
        repeats = self.num_heads // self.num_kv_heads
        return heads_BGTK if repeats == 1 else torch.repeat_interleave(heads_BGTK, repeats, dim=1)


def _as_wide_as(key_BGTJ: Tensor, value_BGTK: Tensor) -> Tensor:
    """The values, with zeros behind them where keys have appended components.

    Kernels that hold no T x T weights want one width; padding here costs less than at every step of a generation.
    """
    missing = key_BGTJ.shape[-1] - value_BGTK.shape[-1]
    return F.pad(value_BGTK, (0, missing)) if missing else value_BGTK


def _softmax_attention(
    query_BHTK: Tensor, key_BHSK: Tensor, value_BHSK: Tensor, visible: Visibility | None, scale: float
) -> Tensor:
    """Long windows go stretch by stretch, whose masks are made again in the backward pass instead of being kept."""
    if visible is None:
        causal = query_BHTK.shape[2] > 1
        return F.scaled_dot_product_attention(query_BHTK, key_BHSK, value_BHSK, is_causal=causal, scale=scale)
    stretches = visible.stretches()
    if len(stretches) == 1:
        queries, keys = stretches[0]
        return _stretch(query_BHTK, key_BHSK, value_BHSK, visible, scale, queries, keys)
    again = partial(checkpoint, _stretch, use_reentrant=False, preserve_rng_state=False)
    attend = again if torch.is_grad_enabled() else _stretch
    mixed = [attend(query_BHTK, key_BHSK, value_BHSK, visible, scale, queries, keys) for queries, keys in stretches]
    return torch.cat(mixed, dim=2)


def _stretch(
    query_BHTK: Tensor,
    key_BHSK: Tensor,
    value_BHSK: Tensor,
    visible: Visibility,
    scale: float,
    queries: slice,
    keys: slice,
) -> Tensor:
    return F.scaled_dot_product_attention(
        query_BHTK[:, :, queries],
        key_BHSK[:, :, keys],
        value_BHSK[:, :, keys],
        attn_mask=visible.mask(queries, keys),
        scale=scale,
    )
