"""What a block looks like while it is being filled in: for those who look on while a diffusion model writes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class BlockView:
    """A block of one text after a step."""

    prompt: int
    """Number of the text's prompt."""
    number: int
    """Which block of the text it is, from 0."""
    step: int
    """Steps that were made; 0 before the first."""
    steps: int
    """The most that are made for a block."""
    token_ids: tuple[int | None, ...]
    """The block's new tokens in the order of the text; None where nothing is decided."""
    probabilities: tuple[float, ...]
    """Of each when it was decided, at temperature 1 with nothing cut off; 0 where nothing is decided."""


OnBlocks = Callable[[Sequence[BlockView]], None]


def ignore_blocks(blocks: Sequence[BlockView]) -> None:
    """For callers who do not look on."""
