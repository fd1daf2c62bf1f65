"""Lines that are drawn anew while a command works, and their form for logs, where nothing can be drawn over."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple, TextIO, final


class Piece(NamedTuple):
    """A part of a line."""

    text: str
    shade: float | None = None
    """How dark it is laid, 0 to 1; None for not at all."""


class Canvas(ABC):
    """Shows the newest lines only."""

    @abstractmethod
    def show(self, lines: Sequence[Sequence[Piece]]) -> None:
        """Replace all lines."""

    @abstractmethod
    def close(self) -> None:
        """The work is over."""


@final
class PlainCanvas(Canvas):
    """Writes every line as it comes, without shades."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def show(self, lines: Sequence[Sequence[Piece]]) -> None:
        for line in lines:
            self._stream.write("".join(piece.text for piece in line) + "\n")
        self._stream.flush()

    def close(self) -> None:
        """Nothing stays open."""
