"""What stands at the places of pictures: the pictures of a batch, and what a decoder reads of them.

A place is a token with a negative id: -1 - p is place p of a picture. Shapes: I pictures, P places, B rows, X tokens.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from dreamlm.core.types import Batch


@dataclass(frozen=True)
class Sight:
    """The pictures of a batch on the device: `core.types.Pictures` as tensors."""

    pixels_IHW: UInt8[Tensor, "I 3 H W"]
    of_BX: Int[Tensor, "B X"]
    """Which picture a place belongs to; -1 for a token that is none, and for a place of no picture."""

    @property
    def same_II(self) -> Bool[Tensor, "I I"]:
        """Which pictures are the same, pixel by pixel."""
        _, number_I = torch.unique(self.pixels_IHW.flatten(1), dim=0, return_inverse=True)
        same_II: Tensor = number_I[:, None] == number_I
        return same_II


def sight_of(batch: Batch, device: torch.device) -> Sight | None:
    """The pictures of a batch on a device; None when it has none."""
    if batch.pictures is None:
        return None
    pixels, of = torch.from_numpy(batch.pictures.pixels), torch.from_numpy(batch.pictures.of)
    return Sight(pixels.to(device, non_blocking=True), of.to(device, non_blocking=True))


class View(ABC):
    """What the places of a batch look like to the decoder, column by column."""

    @abstractmethod
    def columns(self, span: slice) -> "View":
        """Of some columns of the batch; what lies beyond them is not looked at."""

    @abstractmethod
    def text(self, tokens_BT: Int[Tensor, "B T"]) -> Int[Tensor, "B T"]:
        """Ids that the embedding knows; whatever stands for a place is shown over."""

    @abstractmethod
    def show(self, hidden_BTD: Float[Tensor, "B T D"], tokens_BT: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        """The vectors of the tokens, with those of the places among them."""


@final
class NoPlaces(View):
    """For text alone: there is no place to show anything at."""

    def columns(self, span: slice) -> View:
        return self

    def text(self, tokens_BT: Tensor) -> Tensor:
        return tokens_BT

    def show(self, hidden_BTD: Tensor, tokens_BT: Tensor) -> Tensor:
        return hidden_BTD


NO_PLACES = NoPlaces()


@final
@dataclass(frozen=True)
class Blank(View):
    """Places at which nothing is to be seen: each is the same learned vector."""

    blank_D: Float[Tensor, " D"]

    def columns(self, span: slice) -> View:
        return self

    def text(self, tokens_BT: Tensor) -> Tensor:
        return tokens_BT.clamp(min=0)

    def show(self, hidden_BTD: Tensor, tokens_BT: Tensor) -> Tensor:
        return torch.where((tokens_BT < 0)[:, :, None], self.blank_D.to(hidden_BTD.dtype), hidden_BTD)


@final
@dataclass(frozen=True)
class Seen(View):
    """Places that show pictures; those of none are blank."""

    vectors_IPD: Float[Tensor, "I P D"]
    of_BX: Int[Tensor, "B X"]
    blank_D: Float[Tensor, " D"]

    def columns(self, span: slice) -> View:
        return Seen(self.vectors_IPD, self.of_BX[:, span], self.blank_D)

    def text(self, tokens_BT: Tensor) -> Tensor:
        return tokens_BT.clamp(min=0)

    def show(self, hidden_BTD: Tensor, tokens_BT: Tensor) -> Tensor:
        place_BT = (-1 - tokens_BT).clamp(min=0)
        shown_BTD = self.vectors_IPD[self.of_BX.clamp(min=0).long(), place_BT].to(hidden_BTD.dtype)
        shown_BTD = torch.where((self.of_BX >= 0)[:, :, None], shown_BTD, self.blank_D.to(hidden_BTD.dtype))
        return torch.where((tokens_BT < 0)[:, :, None], shown_BTD, hidden_BTD)
