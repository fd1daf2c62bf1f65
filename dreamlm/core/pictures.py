"""Pictures in the rows of a batch: found while the rows are read, then gathered for the whole batch."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dreamlm.core.types import Pictures


class Shown(NamedTuple):
    """A picture of which a row holds places: those of the columns `begin` to `end`."""

    begin: int
    end: int
    pixels: npt.NDArray[np.uint8]
    """(3, H, W)"""


def gathered(shown: Sequence[Sequence[Shown]], length: int) -> Pictures | None:
    """The pictures of a batch, out of those that each of its rows of `length` tokens shows; None when none does."""
    pixels = [one.pixels for row in shown for one in row]
    if not pixels:
        return None
    of = np.full((len(shown), length), -1, dtype=np.int32)
    numbers = iter(range(len(pixels)))
    for row, pictures in enumerate(shown):
        for one, number in zip(pictures, numbers, strict=False):
            of[row, one.begin : one.end] = number
    return Pictures(np.stack(pixels), of)
