"""A line of text that changes while a command works, and its form for logs, where lines cannot change."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TextIO, final

from dreamlm.cli.aside import aside

LINE_SECONDS = 10.0
"""Seconds between two plain lines when stderr is no terminal."""


class LiveLine(ABC):
    """Shows the newest text; other messages may be printed above it."""

    @abstractmethod
    def show(self, text: str, share: float | None = None) -> None:
        """Replace the text; `share` is how much of the work is done, 0 to 1."""

    @abstractmethod
    def print_above(self, text: str) -> None:
        """Print a message that stays."""

    @abstractmethod
    def close(self) -> None:
        """The work is over."""


@final
class PlainLine(LiveLine):
    """Writes the text as a line of its own every `LINE_SECONDS`, the first after that long."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._clock = stream, clock
        self._written = clock()

    def show(self, text: str, share: float | None = None) -> None:
        now = self._clock()
        if now - self._written >= LINE_SECONDS:
            self._written = now
            self.print_above(text)

    def print_above(self, text: str) -> None:
        aside(self._stream, text)

    def close(self) -> None:
        """Nothing stays open."""


def duration(seconds: float) -> str:
    """`0:42`, `12:05` or `3:07:00`: what people read as a time span."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def count(number: float) -> str:
    """`950`, `12.3k`, `4.57M`, `1.20G`: three digits are enough to follow a count."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            scaled = number / size
            return f"{scaled:.{2 if scaled < 10 else 1 if scaled < 100 else 0}f}{unit}"
    return f"{number:.0f}"
