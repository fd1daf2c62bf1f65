"""Attention among a few vectors.

Shapes: Z sets, V vectors of a set, C width.
"""

from typing import final

from jaxtyping import Bool, Float
from torch import Tensor, nn

from dreamlm.core.nn.norm import RMSNorm
from dreamlm.core.nn.pooling import attend


@final
class SelfAttention(nn.Module):
    """What vectors, normalised, tell one another; to be added to them."""

    def __init__(self, size: int, num_heads: int, epsilon: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = RMSNorm(size, epsilon)
        self.query, self.key, self.value = (linear(size, size) for _ in range(3))
        self.output = linear(size, size)

    def forward(
        self, vectors_ZVC: Float[Tensor, "Z V C"], seen: Bool[Tensor, "1 V V"] | None = None
    ) -> Float[Tensor, "Z V C"]:
        normal_ZVC = self.norm(vectors_ZVC)
        query_ZVC, key_ZVC, value_ZVC = self.query(normal_ZVC), self.key(normal_ZVC), self.value(normal_ZVC)
        if len(vectors_ZVC):
            mixed_ZVC = attend(query_ZVC, key_ZVC, value_ZVC, self.num_heads, seen)
        else:  # some kernels refuse to do nothing, and every weight wants its gradient of zeros
            mixed_ZVC = query_ZVC + key_ZVC + value_ZVC
        told: Tensor = self.output(mixed_ZVC)
        return told


def linear(inputs: int, outputs: int) -> nn.Linear:
    return nn.Linear(inputs, outputs, bias=False)
