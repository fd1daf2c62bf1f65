"""The picture before a prompt: which tokens stand for it, and what the model sees at them.

Shapes: R rows, T tokens read at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Int
from torch import Tensor

from dreamlm.core.errors import UserMistake
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.nn.vision.view import NO_PLACES, Sight, View
from dreamlm.core.nn.vision.vision import require_vision


@dataclass(frozen=True)
class Places:
    """The places of a prompt, and the pictures at them."""

    ids: tuple[int, ...] = ()
    """The tokens that stand for them."""
    pixels: tuple[npt.NDArray[np.uint8], ...] = ()
    """(3, H, W) of one picture, or nothing."""


NOTHING_TO_SEE = Places()


def places_of(model: DreamLM, picture: npt.NDArray[np.uint8]) -> Places:
    """Where a model sees a picture.

    Raises: UserMistake when the model takes none, or none of this size.
    """
    form = require_vision(model.config.image_form)
    if picture.shape != (3, form.size, form.size):
        raise UserMistake(f"this model takes pictures of the shape (3, {form.size}, {form.size}), not {picture.shape}")
    return Places(tuple(-1 - place for place in range(form.places)), (picture,))


def view_of(model: DreamLM, places: Sequence[Places], tokens_RT: Int[Tensor, "R T"]) -> View:
    """What rows show that are read together; a row whose places are out of sight shows nothing."""
    seen = (tokens_RT < 0).any(dim=1).tolist()
    pixels = [one.pixels[0] for one, sees in zip(places, seen, strict=True) if sees]
    if not pixels:
        return NO_PLACES
    number_R = torch.tensor(seen, device=tokens_RT.device).cumsum(dim=0) - 1
    of_RT = torch.where(tokens_RT < 0, number_R[:, None], -1)
    return model.look(Sight(torch.from_numpy(np.stack(pixels)).to(tokens_RT.device), of_RT))
