"""The value head: what an answer will still earn, from the vector that predicts its next token."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class ValueHead(nn.Module):
    """A linear map to one number, in fp32; a fresh one expects nothing of any token."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden_size, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, hidden_ND: Float[Tensor, "N D"]) -> Float[Tensor, " N"]:
        with torch.autocast(hidden_ND.device.type, enabled=False):
            value_N1: Tensor = self.linear(hidden_ND.float())
        return value_N1[:, 0]
