"""What a few learned queries find among many vectors.

Shapes: Z sets of vectors, Q queries and V vectors of a set, C width, H heads, K width of a head.
"""

from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F


@final
class LearnedQueries(nn.Module):
    """Attention whose queries are weights. Queries and keys are normalised head by head, as in the decoder.

    Fresh queries are short, and short queries score all vectors alike: each of them would find the mean, get the
    gradient of the others, and go on to find what they find. Normalised, their scores have a deviation of about 1.
    Source: learned queries as in Lee et al. 2019, "Set Transformer"; normalised as in Henry et al. 2020, "Query-Key
    Normalization for Transformers".  Departs: a gain for each component instead of one for all scores.
    """

    def __init__(self, number: int, size: int, num_heads: int, epsilon: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Parameter(torch.empty(number, size))
        self.gain = nn.Parameter(torch.ones(size))
        self.epsilon = epsilon

    def forward(
        self,
        key_ZVC: Float[Tensor, "Z V C"],
        value_ZVC: Float[Tensor, "Z V C"],
        seen: Bool[Tensor, "Z 1 V"] | None = None,
        moved_ZQC: Float[Tensor, "Z Q C"] | float = 0.0,
    ) -> Float[Tensor, "Z Q C"]:
        """seen: which vectors may be found; of each set one at least.  moved_ZQC: what is added to queries of RMS 1."""
        query_ZQC = F.rms_norm(self.query, self.query.shape[1:]).to(key_ZVC.dtype) + moved_ZQC
        query_ZHQK = split(query_ZQC.expand(len(key_ZVC), -1, -1), self.num_heads)
        key_ZHVK = self._normal(split(key_ZVC, self.num_heads))
        gain_HK = self.gain.to(key_ZVC.dtype).view(self.num_heads, -1)
        return _mixed(self._normal(query_ZHQK) * gain_HK[:, None], key_ZHVK, split(value_ZVC, self.num_heads), seen)

    def _normal(self, vectors_ZHXK: Tensor) -> Tensor:
        return F.rms_norm(vectors_ZHXK, vectors_ZHXK.shape[3:], eps=self.epsilon)


def choosing(several: bool, size: int) -> nn.Module:
    """What makes queries or keys of vectors; nothing where there are not several to choose from: it would not learn."""
    return nn.Linear(size, size, bias=False) if several else nn.Identity()


def attend(
    query_ZQC: Float[Tensor, "Z Q C"],
    key_ZVC: Float[Tensor, "Z V C"],
    value_ZVC: Float[Tensor, "Z V C"],
    num_heads: int,
    seen: Bool[Tensor, "*Z Q V"] | None = None,
) -> Float[Tensor, "Z Q C"]:
    """softmax(q k^T / sqrt(width of a head)) v, head by head.  seen: which vectors a query may attend to."""
    return _mixed(split(query_ZQC, num_heads), split(key_ZVC, num_heads), split(value_ZVC, num_heads), seen)


def split(vectors_ZVC: Float[Tensor, "Z V C"], num_heads: int) -> Float[Tensor, "Z H V K"]:
    """The part of each vector that belongs to each head."""
    sets, number, size = vectors_ZVC.shape
    return vectors_ZVC.reshape(sets, number, num_heads, size // num_heads).transpose(1, 2)


def _mixed(query_ZHQK: Tensor, key_ZHVK: Tensor, value_ZHVK: Tensor, seen: Tensor | None) -> Tensor:
    mask = None if seen is None else seen[:, None]
    mixed_ZHQK = F.scaled_dot_product_attention(query_ZHQK, key_ZHVK, value_ZHVK, attn_mask=mask)
    return mixed_ZHQK.transpose(1, 2).flatten(2)
