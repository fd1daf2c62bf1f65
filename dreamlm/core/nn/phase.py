"""Where a run of columns stands in the segments of its rows; plain numbers, known without asking the device.

A row's segments begin at its first real token: padding on the left shifts them, so that a text is cut in the same
places whatever it is batched with.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor


@dataclass(frozen=True)
class Phase:
    """Columns `begin` to `end` (exclusive) of a batch; no segment of any row ends between them."""

    begin: int
    end: int
    size: int
    """Tokens of a segment."""
    left_padding: tuple[int, ...]
    """Columns of padding before each row's first token; empty when no row has any."""

    @property
    def whole(self) -> bool:
        """Whether the columns are exactly one segment, in every row."""
        return not self.left_padding and self.begin % self.size == 0 and self.end - self.begin == self.size

    def completed(self, rows: int) -> list[int]:
        """The rows, of so many, whose segment ends with the last column."""
        return [
            row
            for row, padding in enumerate(self.left_padding or (0,) * rows)
            if self.end > padding and (self.end - padding) % self.size == 0
        ]

    def slots(self, rows: int, device: torch.device) -> Int[Tensor, "B T"]:
        """Place of every column in its row's segment, from 0; padding on the left counts backwards from its end."""
        padding_B = torch.tensor(self.left_padding or (0,) * rows, device=device)
        return (torch.arange(self.begin, self.end, device=device) - padding_B[:, None]) % self.size


def phases(begin: int, end: int, size: int, left_padding: tuple[int, ...]) -> Iterator[Phase]:
    """The columns cut wherever a segment of any row ends; at most one cut for each padding and segment."""
    offsets = {padding % size for padding in left_padding} or {0}
    while begin < end:
        stop = min(end, *(begin + size - (begin - offset) % size for offset in offsets))
        yield Phase(begin, stop, size, left_padding)
        begin = stop
