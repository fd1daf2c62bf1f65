"""Pictures for the contracts: with a model that sees, the largest ids of a row stand for places of some fixed pictures.

So a contract that changes a token changes a word into a place, a place into a word, or what is to be seen there.
"""

import torch
from torch import Tensor

from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.nn.vision.view import Sight

PICTURES = 3


def words(config: DreamLM.Config, vocab_size: int) -> int:
    """How many ids are words: the others are the places of all pictures, and a place of none."""
    return vocab_size - (PICTURES * config.image_form.places + 1 if config.image_form else 0)


def pictured(config: DreamLM.Config, ids: Tensor, vocab_size: int) -> tuple[Tensor, list[Sight]]:
    """The tokens with their places, and what is to be seen there: one sight, or nothing by a model without eyes."""
    if config.image_form is None:
        return ids, []
    places, number = config.image_form.places, ids - words(config, vocab_size)
    is_place = (number >= 0) & (ids < vocab_size)
    of = torch.where(is_place & (number < PICTURES * places), number // places, -1)
    tokens = torch.where(is_place, -1 - number % places, ids)
    form = (PICTURES, 3, config.image_form.size, config.image_form.size)
    pixels = torch.randint(0, 256, form, dtype=torch.uint8, generator=torch.Generator().manual_seed(6))
    return tokens, [Sight(pixels, of)]
