"""The reward heads: what an answer is worth, and how surely, from the vector at its last token.

    score      = sum over components of softmax(mixture) * component, any real number
    confidence = 0.999 * sigmoid(...), in (0, 0.999)

Shapes: B rows, D width, C = 4 components.
"""

import math
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

COMPONENTS = ("faithfulness", "coherence", "correctness", "creativity")
MOST_CONFIDENT = 0.999
"""No label is surer, so one that contradicts the model costs at most ln 2000 nats."""
FIRST_CONFIDENCE = 0.5
"""Of a model that was not trained yet: surer, it would explain wrong labels by scores that lie close together."""


@final
class RewardHeads(nn.Module):
    """Four linear component heads, their mixture, and a confidence head.

    All start at zero, so that a fresh model gives every answer the score 0 and every pair the probability 1/2 exactly.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.components = nn.Linear(width, len(COMPONENTS), bias=False)  # a constant would cancel in every pair
        self.mixture = nn.Parameter(torch.zeros(len(COMPONENTS)))
        self.confidence = nn.Linear(width, 1)
        nn.init.zeros_(self.components.weight)
        nn.init.zeros_(self.confidence.weight)
        share = FIRST_CONFIDENCE / MOST_CONFIDENT
        nn.init.constant_(self.confidence.bias, math.log(share / (1 - share)))

    def forward(
        self, hidden_BD: Float[Tensor, "B D"]
    ) -> tuple[Float[Tensor, "B C"], Float[Tensor, " B"], Float[Tensor, " B"], Float[Tensor, " C"]]:
        """Components, scores, confidences, and the mixture; fp32 whatever surrounds it."""
        with torch.autocast(hidden_BD.device.type, enabled=False):
            hidden_BD = hidden_BD.float()
            component_BC = self.components(hidden_BD)
            mixture_C = self.mixture.softmax(dim=0)
            score_B = (component_BC * mixture_C).sum(dim=1)
            confidence_B = MOST_CONFIDENT * self.confidence(hidden_BD).squeeze(1).sigmoid()
            return component_BC, score_B, confidence_B, mixture_C
