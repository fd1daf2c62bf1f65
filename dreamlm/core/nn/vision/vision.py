"""The eyes of a decoder: pictures become vectors at their places.

pixels -> encoder: features -> prefix: a vector for each place -> noise -> a `View`, which the decoder embeds by
"""

import math
from collections.abc import Collection
from typing import final

import torch
from torch import Tensor, nn

from dreamlm.core.errors import UserMistake
from dreamlm.core.nn.initialisation import initialise
from dreamlm.core.nn.vision.contrast import Contrast, TokenNoise
from dreamlm.core.nn.vision.encoder import VisionConfig
from dreamlm.core.nn.vision.prefix import Prefix
from dreamlm.core.nn.vision.view import NO_PLACES, Blank, Seen, Sight, View
from dreamlm.core.types import ImageForm


@final
class NoVision(nn.Module):
    """A model that reads text alone."""

    def forward(self, sight: Sight | None) -> View:
        """Raises: UserMistake when there is anything to be seen."""
        if sight is not None:
            raise _blind()
        return NO_PLACES

    looks = False

    def look(self, enabled: bool) -> None:
        """There is nothing to look with."""

    @property
    def compares(self) -> bool:
        """Whether pictures are compared with captions."""
        return False

    of_pictures: Collection[nn.Parameter] = ()


def require_vision(form: ImageForm | None, where: str = "model.vision") -> ImageForm:
    """The form of a model that takes pictures.  Raises: UserMistake when it takes none, and `where` that was asked."""
    if form is None:
        raise _blind(where)
    return form


def _blind(where: str = "model.vision") -> UserMistake:
    return UserMistake(
        "this model takes no pictures",
        where=where,
        hint="train one whose preset has it, such as --set model.vision=lite",
    )


@final
class Vision(nn.Module):
    """An encoder, what brings its features to the decoder's places, and what compares them with captions."""

    def __init__(self, config: VisionConfig, hidden_size: int, num_heads: int) -> None:
        """hidden_size, num_heads: of the decoder."""
        super().__init__()
        self.encoder = config.build_encoder()
        self.prefix = Prefix(self.encoder.width, hidden_size, config.num_prefix_tokens, num_heads)
        self.noise = TokenNoise(hidden_size, config.token_mask_prob, config.embedding_dropout)
        self.blank = nn.Parameter(torch.empty(hidden_size).normal_(0.0, 0.3 / math.sqrt(hidden_size)))
        self.contrast = (
            Contrast(hidden_size, config.token_mask_prob, config.embedding_dropout, config.contrastive_temperature)
            if config.use_contrastive_loss
            else None
        )
        initialise(self, config.depth)
        self.looks = True

    def look(self, enabled: bool) -> None:
        """Whether pictures are looked at; if not, their places are blank, and no encoder runs."""
        self.looks = enabled

    @property
    def compares(self) -> bool:
        """Whether pictures are compared with captions: whether that is learned, and they are looked at."""
        return self.looks and self.contrast is not None

    @property
    def of_pictures(self) -> Collection[nn.Parameter]:
        """What learns from pictures, and without any from nothing."""
        return {parameter for parameter in self.parameters() if parameter is not self.blank}

    def forward(self, sight: Sight | None) -> View:
        """What the places of a batch look like; None when no picture is there."""
        if sight is None or not self.looks:
            return Blank(self.blank)
        return Seen(self.vectors(sight.pixels_IHW), sight.of_BX, self.blank)

    def vectors(self, pixels_IHW: Tensor) -> Tensor:
        """(I, P, D) what each picture shows at each of its places."""
        shown: Tensor = self.noise(self.prefix(self.encoder(pixels_IHW)))
        return shown
