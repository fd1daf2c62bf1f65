"""Attention with linear biases: a penalty that grows with distance into the past."""

import math
from dataclasses import dataclass
from typing import Literal, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dreamlm.core.nn.positions.positions import LayerChoice, Placement, Positions, refuse_layers

DIGITS = (1, 256, 65_536)
"""Values of a position's digits in base 256: each digit times its value is exact in every float type from 8 bits on."""
APPENDED = 8
"""Components appended to queries and keys: two for each digit, and zeros, because kernels want multiples of 8."""


@final
@dataclass(frozen=True)
class Slope(Placement):
    """Appends components whose inner product is slope * sqrt(K) * position of the key.

    Softmax forgets what is the same for all keys of a query, so this equals -slope * distance, without a bias for
    every pair of tokens.
    """

    query_1H1A: Float[Tensor, "1 H 1 A"]
    key_B1TA: Float[Tensor, "B 1 T A"]

    def query(self, query_BHTK: Tensor, layer: int) -> Tensor:
        return torch.cat([query_BHTK, self.query_1H1A.expand(*query_BHTK.shape[:3], -1)], dim=-1)

    def key(self, key_BGTK: Tensor, layer: int) -> Tensor:
        return torch.cat([key_BGTK, self.key_B1TA.expand(*key_BGTK.shape[:3], -1)], dim=-1)


@final
class ALiBi(Positions):
    """Adds -slope * (i - j) to the logits of query i and key j, with one slope for each head.

    Source: Press et al. 2021, "Train Short, Test Long".
    Departs: a slope is the sum of two numbers of the attention's type, so it is exact to 2^-17 in bf16.
    """

    class Config(Positions.Config):
        type: Literal["alibi"] = "alibi"

        def check(self, num_layers: int) -> None:
            """Fits every model."""

        def extended(self, trained: int, length: int, layers: LayerChoice | None) -> "ALiBi.Config":
            """As it is: any distance has its penalty."""
            refuse_layers(self.type, layers)
            return self

        def build(self, hidden_size: int, num_heads: int, head_size: int, num_layers: int, seq_length: int) -> "ALiBi":
            return ALiBi(num_heads, head_size)

    def __init__(self, num_heads: int, head_size: int) -> None:
        super().__init__()
        self.max_positions = None
        # Attention divides by sqrt(K). Kept as a plain tensor in fp32, which no cast and no checkpoint touches.
        self._slope_H = torch.tensor(slopes(num_heads), dtype=torch.float32) * math.sqrt(head_size)

    def embed(self, hidden_BTD: Tensor, position_BT: Tensor) -> Tensor:
        return hidden_BTD

    def place(self, position_BT: Tensor, dtype: torch.dtype) -> Placement:
        if self._slope_H.device != position_BT.device:
            self._slope_H = self._slope_H.to(position_BT.device)
        return Slope(_query_part(self._slope_H, dtype), _key_part(position_BT, dtype))


def slopes(num_heads: int) -> list[float]:
    """2^(-8 h / H) for h = 1 ... H; when H is no power of two, the slopes of the next lower power and then every other
    one of the next higher."""
    power = 2 ** math.floor(math.log2(num_heads))
    first = [2.0 ** (-8.0 * head / power) for head in range(1, power + 1)]
    between = [2.0 ** (-4.0 * head / power) for head in range(1, 2 * power, 2)]
    return [*first, *between][:num_heads]


def _query_part(slope_H: Tensor, dtype: torch.dtype) -> Float[Tensor, "1 H 1 A"]:
    coarse_H = slope_H.to(dtype)
    rest_H = (slope_H - coarse_H.float()).to(dtype)
    part_HA = slope_H.new_zeros(len(slope_H), APPENDED, dtype=dtype)
    part_HA[:, : len(DIGITS)] = coarse_H[:, None]
    part_HA[:, len(DIGITS) : 2 * len(DIGITS)] = rest_H[:, None]
    return part_HA[None, :, None]


def _key_part(position_BT: Int[Tensor, "B T"], dtype: torch.dtype) -> Float[Tensor, "B 1 T A"]:
    digits_BT3 = torch.stack([position_BT // value % 256 * value for value in DIGITS], dim=-1)
    padding_BT2 = digits_BT3.new_zeros(*position_BT.shape, APPENDED - 2 * len(DIGITS))
    return torch.cat([digits_BT3, digits_BT3, padding_BT2], dim=-1)[:, None].to(dtype)
