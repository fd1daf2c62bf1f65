"""Position-wise feed-forward layers."""

from torch import Tensor, nn
from torch.nn import functional as F


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)), without biases.  Source: Shazeer 2020, "GLU Variants Improve Transformer"."""

    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.gate = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.up = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.down = nn.Linear(intermediate_size, hidden_size, bias=False)

    def forward(self, hidden_BTD: Tensor) -> Tensor:
        expanded_BTF = F.silu(self.gate(hidden_BTD)) * self.up(hidden_BTD)
        projected: Tensor = self.down(expanded_BTF)
        return projected
