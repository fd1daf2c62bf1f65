"""A patch transformer with a pyramid of three resolutions.

Shapes: I pictures of H x W pixels, N patches, W width of a feature.
"""

from typing import Literal, final

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from dreamlm.core.nn.norm import RMSNorm
from dreamlm.core.nn.vision.encoder import VisionConfig, VisionEncoder
from dreamlm.core.nn.vision.layer import EPSILON, EncoderLayer

GRID = 14
"""Patches of a side, whatever the size of the picture."""
LEVELS = (GRID, 7, 3)
"""Of the pyramid: the patches, and means over larger and larger parts of the picture."""
MIDDLE = 0.5
"""Mean and deviation by which pixels come to lie between -1 and 1."""


@final
class Vit(VisionEncoder):
    """14 x 14 patches through transformer layers; what comes out, and its 7 x 7 and 3 x 3 means, are the features.

    Source: Dosovitskiy et al. 2021, "An Image is Worth 16x16 Words"; the pyramid of pooled grids: He et al. 2014,
    "Spatial Pyramid Pooling".  Departs: the patch follows the picture's size, not the number of patches.
    """

    class Config(VisionConfig):
        type: Literal["vit"] = "vit"
        image_size: int = Field(224, ge=GRID, multiple_of=GRID)
        """Pixels of a side, to which pictures are cut and scaled when the corpus is prepared."""
        width: int = Field(192, ge=8)
        """Of the features."""
        num_layers: int = Field(4, ge=1)
        num_heads: int = Field(4, ge=1)
        """A divisor of `width`."""

        @property
        def depth(self) -> int:
            return self.num_layers

        def check_sizes(self) -> None:
            if self.width % self.num_heads:
                raise ValueError(f"vision.width {self.width} must be a multiple of vision.num_heads {self.num_heads}")

        def build_encoder(self) -> VisionEncoder:
            return Vit(self)

    def __init__(self, config: Config) -> None:
        super().__init__([MIDDLE] * 3, [MIDDLE] * 3)
        self.width, self._patch = config.width, config.image_size // GRID
        self.patches = nn.Linear(3 * self._patch**2, config.width, bias=False)
        self.places = nn.Parameter(torch.empty(GRID**2, config.width))
        self.layers = nn.ModuleList(EncoderLayer(config.width, config.num_heads) for _ in range(config.num_layers))
        self.norm = RMSNorm(config.width, EPSILON)
        self.levels = nn.Parameter(torch.empty(len(LEVELS), config.width))

    def features(self, normal_IHW: Float[Tensor, "I 3 H W"]) -> Float[Tensor, "I N W"]:
        pieces_IXN = F.unfold(normal_IHW, self._patch, stride=self._patch)
        hidden_INW = self.patches(pieces_IXN.transpose(1, 2)) + self.places
        for layer in self.layers:
            hidden_INW = layer(hidden_INW)
        grid_IW = torch.unflatten(self.norm(hidden_INW).transpose(1, 2), 2, (GRID, GRID))
        pyramid = [F.adaptive_avg_pool2d(grid_IW, side).flatten(2).transpose(1, 2) for side in LEVELS]
        return torch.cat([level + mark for level, mark in zip(pyramid, self.levels, strict=True)], dim=1)
