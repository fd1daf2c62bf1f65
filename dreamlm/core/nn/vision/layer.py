"""A layer that looks both ways, as encoders of pictures have it."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from dreamlm.core.nn.norm import RMSNorm

EPSILON = 1e-5


class EncoderLayer(nn.Module):
    """Pre-norm self-attention among all features of a picture, then a feed-forward of four times their width.

    Source: Dosovitskiy et al. 2021.  Departs: RMS norms, no biases.  Cost: O(N^2) for N features.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm, self.feed_forward_norm = RMSNorm(width, EPSILON), RMSNorm(width, EPSILON)
        self.query, self.key, self.value = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.residual = nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, hidden_INW: Float[Tensor, "I N W"]) -> Float[Tensor, "I N W"]:
        hidden_INW = hidden_INW + self._mixed(self.attention_norm(hidden_INW))
        raised: Tensor = F.gelu(self.up(self.feed_forward_norm(hidden_INW)))
        lowered: Tensor = self.down(raised)
        return hidden_INW + lowered

    def _mixed(self, normal_INW: Tensor) -> Tensor:
        query, key, value = (self._heads(part(normal_INW)) for part in (self.query, self.key, self.value))
        mixed_INW: Tensor = self.residual(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))
        return mixed_INW

    def _heads(self, projected_INW: Tensor) -> Tensor:
        return torch.unflatten(projected_INW, 2, (self.num_heads, -1)).transpose(1, 2)
