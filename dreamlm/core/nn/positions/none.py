"""No positions at all: the causal mask alone tells the past from the future."""

from typing import Literal, final

import torch
from torch import Tensor

from dreamlm.core.nn.positions.positions import LayerChoice, Placement, Positions, Unplaced, refuse_layers


@final
class NoPositions(Positions):
    """Neither embeddings, nor queries and keys, are marked.

    Source: Haviv et al. 2022; Kazemnejad et al. 2023 ("NoPE").
    """

    class Config(Positions.Config):
        type: Literal["none"] = "none"

        def check(self, num_layers: int) -> None:
            """Fits every model."""

        def extended(self, trained: int, length: int, layers: LayerChoice | None) -> "NoPositions.Config":
            """As it is: there is nothing to re-scale."""
            refuse_layers(self.type, layers)
            return self

        def build(
            self, hidden_size: int, num_heads: int, head_size: int, num_layers: int, seq_length: int
        ) -> "NoPositions":
            return NoPositions()

    def __init__(self) -> None:
        super().__init__()
        self.max_positions = None

    def embed(self, hidden_BTD: Tensor, position_BT: Tensor) -> Tensor:
        return hidden_BTD

    def place(self, position_BT: Tensor, dtype: torch.dtype) -> Placement:
        return Unplaced()
