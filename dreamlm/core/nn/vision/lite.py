"""Convolutions: the cheapest eyes, for small pictures and few of them.

Shapes: I pictures of H x W pixels, N cells, W width of a feature.
"""

from itertools import pairwise
from typing import Literal, final

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from dreamlm.core.nn.vision.encoder import VisionConfig, VisionEncoder
from dreamlm.core.nn.vision.vit import MIDDLE

STEP = 8
"""Pixels of a side that become one cell: each of three stages halves the picture."""


@final
class Lite(VisionEncoder):
    """Three stages of convolutions with stride 2; each cell of the last is a feature that knows its place.

    Groups of one picture are normalised, never a batch: a picture's features do not depend on those beside it.
    Source: strided convolutions as in Springenberg et al. 2015; group norm: Wu & He 2018.
    """

    class Config(VisionConfig):
        type: Literal["lite"] = "lite"
        image_size: int = Field(224, ge=2 * STEP, multiple_of=STEP)
        """Pixels of a side, to which pictures are cut and scaled when the corpus is prepared."""
        width: int = Field(128, ge=8, multiple_of=4)
        """Of the features; the stages before have a quarter and a half of it."""

        def build_encoder(self) -> VisionEncoder:
            return Lite(self)

    def __init__(self, config: Config) -> None:
        super().__init__([MIDDLE] * 3, [MIDDLE] * 3)
        self.width = config.width
        widths = [3, config.width // 4, config.width // 2, config.width]
        self.stages = nn.Sequential(*(_Stage(*pair) for pair in pairwise(widths)))
        self.places = nn.Parameter(torch.empty((config.image_size // STEP) ** 2, config.width))

    def features(self, normal_IHW: Float[Tensor, "I 3 H W"]) -> Float[Tensor, "I N W"]:
        cells_INW: Tensor = self.stages(normal_IHW).flatten(2).transpose(1, 2) + self.places
        return cells_INW


@final
class _Stage(nn.Module):
    """Half as many cells a side, as wide as asked, and a second look at their neighbours beside the first."""

    def __init__(self, narrow: int, wide: int) -> None:
        super().__init__()
        self.halve = nn.Conv2d(narrow, wide, 3, stride=2, padding=1, bias=False)
        self.halved_norm = nn.GroupNorm(1, wide)
        self.look = nn.Conv2d(wide, wide, 3, padding=1, bias=False)
        self.look_norm = nn.GroupNorm(1, wide)
        self.activation = nn.GELU()

    def forward(self, grid_IHW: Tensor) -> Tensor:
        grid_IHW = self.activation(self.halved_norm(self.halve(grid_IHW)))
        looked: Tensor = grid_IHW + self.activation(self.look_norm(self.look(grid_IHW)))
        return looked
