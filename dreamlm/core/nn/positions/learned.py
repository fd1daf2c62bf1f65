"""A table of learned positions."""

from typing import Literal, final

import torch
from torch import Tensor, nn

from dreamlm.core.config import ConfigModel
from dreamlm.core.nn.positions.positions import Placement, Positions, Unplaced


@final
class Learned(Positions):
    """A table of learned vectors, one for each position of a document, added to the token embeddings."""

    class Config(ConfigModel):
        type: Literal["learned"] = "learned"

        def build(self, hidden_size: int, num_heads: int, seq_length: int) -> "Learned":
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
