"""Disturbed pictures: in training each is seen a little otherwise whenever it comes.

Shapes: I pictures of H x W pixels.
"""

from abc import ABC, abstractmethod
from typing import final

import torch
from jaxtyping import UInt8
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from dreamlm.core.config import ConfigModel


class PictureAugmentation(ABC):
    """Decides what is seen of pictures."""

    @abstractmethod
    def seen(self, pixels_IHW: UInt8[Tensor, "I 3 H W"]) -> UInt8[Tensor, "I 3 H W"]:
        """What is seen in training instead of these."""


@final
class AsTheyAre(PictureAugmentation):
    """Every picture is seen as it is; draws no random number."""

    def seen(self, pixels_IHW: Tensor) -> Tensor:
        return pixels_IHW


AS_THEY_ARE = AsTheyAre()


@final
class DisturbedPictures(PictureAugmentation):
    """A random part of each picture, as large as the whole, perhaps mirrored, in slightly other colours.

    Source: random crops as in Szegedy et al. 2015, "Going Deeper with Convolutions"; colours as in Howard 2013.
    """

    class Config(ConfigModel):
        """How pictures are disturbed in training; held-out ones never are."""

        smallest_crop: float = Field(0.7, gt=0.0, le=1.0)
        """Least share of a side that is seen."""
        mirrored: float = Field(0.5, ge=0.0, le=1.0)
        """Share of the pictures that are turned left to right; 0 where captions tell left from right."""
        colours: float = Field(0.2, ge=0.0, lt=1.0)
        """Most by which each of red, green and blue grows or shrinks, and by which all of them do."""

        def build(self) -> PictureAugmentation:
            return DisturbedPictures(self)

    def __init__(self, config: Config) -> None:
        self._config = config

    def seen(self, pixels_IHW: Tensor) -> Tensor:
        pictures, device = len(pixels_IHW), pixels_IHW.device
        scale_I = 1 - torch.rand(pictures, device=device) * (1 - self._config.smallest_crop)
        mirror_I = 1 - 2 * (torch.rand(pictures, device=device) < self._config.mirrored).float()
        shift_I2 = (2 * torch.rand(pictures, 2, device=device) - 1) * (1 - scale_I)[:, None]
        part_I23 = torch.zeros(pictures, 2, 3, device=device)
        part_I23[:, 0, 0], part_I23[:, 1, 1], part_I23[:, :, 2] = scale_I * mirror_I, scale_I, shift_I2
        grid = F.affine_grid(part_I23, list(pixels_IHW.shape), align_corners=False)
        cut_IHW = F.grid_sample(pixels_IHW.float(), grid, padding_mode="border", align_corners=False)
        gain_I4 = 1 + (2 * torch.rand(pictures, 4, device=device) - 1) * self._config.colours
        gain_I3 = gain_I4[:, :3] * gain_I4[:, 3:]
        return (cut_IHW * gain_I3[:, :, None, None]).round().clamp(0, 255).to(torch.uint8)
