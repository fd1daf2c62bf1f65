"""A table of learned positions."""

from typing import Literal, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from dreamlm.core.nn.positions.positions import LayerChoice, Placement, Positions, Unplaced, refuse_layers


@final
class Learned(Positions):
    """A table of learned vectors, one for each position of a document, added to the token embeddings."""

    class Config(Positions.Config):
        type: Literal["learned"] = "learned"

        def check(self, num_layers: int) -> None:
            """Fits every model."""

        def extended(self, trained: int, length: int, layers: LayerChoice | None) -> "Learned.Config":
            """As it is: the weights change, see `stretched`."""
            refuse_layers(self.type, layers)
            return self

        def build(
            self, hidden_size: int, num_heads: int, head_size: int, num_layers: int, seq_length: int
        ) -> "Learned":
            return Learned(hidden_size, seq_length)

    def __init__(self, hidden_size: int, seq_length: int) -> None:
        super().__init__()
        self.max_positions = seq_length
        self.table = nn.Embedding(seq_length, hidden_size)

    def embed(self, hidden_BTD: Tensor, position_BT: Tensor) -> Tensor:
        embedded: Tensor = hidden_BTD + self.table(position_BT)
        return embedded

    def place(self, position_BT: Tensor, dtype: torch.dtype) -> Placement:
        return Unplaced()


def stretched(table_PD: Float[Tensor, "P D"], length: int) -> Float[Tensor, "N D"]:
    """A table of `length` rows, linear between the rows of this one; first and last row stay first and last."""
    long_1DN = F.interpolate(table_PD.double().T[None], size=length, mode="linear", align_corners=True)
    return long_1DN[0].T.to(table_PD.dtype).contiguous()
