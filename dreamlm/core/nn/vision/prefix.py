"""From the features of a picture, however many, to the vectors that a decoder reads at its places.

Shapes: I pictures, N features, P places, D width of the decoder, W of a feature.
"""

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from dreamlm.core.nn.norm import RMSNorm
from dreamlm.core.nn.vision.layer import EPSILON


@final
class Prefix(nn.Module):
    """A learned query for each place looks over all features; what it finds is about as long as a token's vector.

    Source: learned queries as in Alayrac et al. 2022, "Flamingo" (its resampler).  Departs: one layer.
    """

    def __init__(self, width: int, hidden_size: int, places: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.feature_norm, self.found_norm = RMSNorm(width, EPSILON), RMSNorm(hidden_size, EPSILON)
        self.queries = nn.Parameter(torch.empty(places, hidden_size))
        self.key, self.value = (nn.Linear(width, hidden_size, bias=False) for _ in range(2))
        self.output = nn.Linear(hidden_size, hidden_size, bias=False)

    def forward(self, features_INW: Float[Tensor, "I N W"]) -> Float[Tensor, "I P D"]:
        normal_INW = self.feature_norm(features_INW)
        query_IPD = (self.queries.shape[1] ** 0.5 * self.queries).expand(len(features_INW), -1, -1)
        heads = (self._heads(one) for one in (query_IPD, self.key(normal_INW), self.value(normal_INW)))
        query, key, value = heads
        found_IPD = F.scaled_dot_product_attention(query.to(key.dtype), key, value).transpose(1, 2).flatten(2)
        # A place that finds the same everywhere still has to be told apart from the others.
        vectors: Tensor = self.output(self.found_norm(found_IPD + self.queries)) * self.queries.shape[1] ** -0.5
        return vectors

    def _heads(self, projected_IXD: Tensor) -> Tensor:
        return torch.unflatten(projected_IXD, 2, (self.num_heads, -1)).transpose(1, 2)
