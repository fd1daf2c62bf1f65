"""Attention among a few vectors.

Shapes: Z sets of vectors, Q queries and V vectors of a set, C width.
"""

from typing import final

from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from dreamlm.core.nn.norm import RMSNorm


def attend(
    query_ZQC: Float[Tensor, "Z Q C"],
    key_ZVC: Float[Tensor, "Z V C"],
    value_ZVC: Float[Tensor, "Z V C"],
    num_heads: int,
    seen: Bool[Tensor, "*Z 1 Q V"] | None = None,
) -> Float[Tensor, "Z Q C"]:
    """softmax(q k^T / sqrt(width of a head)) v, head by head.  seen: which vectors a query may attend to."""
    query_ZHQK, key_ZHVK, value_ZHVK = (split(vectors, num_heads) for vectors in (query_ZQC, key_ZVC, value_ZVC))
    mixed_ZHQK = F.scaled_dot_product_attention(query_ZHQK, key_ZHVK, value_ZHVK, attn_mask=seen)
    return mixed_ZHQK.transpose(1, 2).flatten(2)


def split(vectors_ZVC: Float[Tensor, "Z V C"], num_heads: int) -> Float[Tensor, "Z H V K"]:
    """The part of each vector that belongs to each head."""
    sets, number, size = vectors_ZVC.shape
    return vectors_ZVC.view(sets, number, num_heads, size // num_heads).transpose(1, 2)


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
        self, vectors_ZVC: Float[Tensor, "Z V C"], seen: Bool[Tensor, "1 1 V V"] | None = None
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
