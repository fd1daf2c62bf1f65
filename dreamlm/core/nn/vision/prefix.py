"""From the features of a picture, however many, to the vectors that a decoder reads at its places.

Shapes: I pictures, N features, P places, D width of the decoder, W of a feature.
"""

from typing import final

from jaxtyping import Float
from torch import Tensor, nn

from dreamlm.core.nn.norm import RMSNorm
from dreamlm.core.nn.pooling import LearnedQueries
from dreamlm.core.nn.vision.layer import EPSILON


@final
class Prefix(nn.Module):
    """A learned query for each place looks over all features; what it finds is about as long as a token's vector.

    Source: Alayrac et al. 2022, "Flamingo" (its resampler).  Departs: one layer.
    """

    def __init__(self, width: int, hidden_size: int, places: int, num_heads: int) -> None:
        super().__init__()
        self.feature_norm, self.found_norm = RMSNorm(width, EPSILON), RMSNorm(hidden_size, EPSILON)
        self.places = LearnedQueries(places, hidden_size, num_heads, EPSILON)
        self.key, self.value = (nn.Linear(width, hidden_size, bias=False) for _ in range(2))
        self.output = nn.Linear(hidden_size, hidden_size, bias=False)

    def forward(self, features_INW: Float[Tensor, "I N W"]) -> Float[Tensor, "I P D"]:
        normal_INW = self.feature_norm(features_INW)
        found_IPD = self.places(self.key(normal_INW), self.value(normal_INW))
        # A place that finds the same everywhere still has to be told apart from the others.
        vectors: Tensor = self.output(self.found_norm(found_IPD + self.places.query)) * found_IPD.shape[2] ** -0.5
        return vectors
