"""Ending a text at a stop string, without ever giving out a piece of one."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Piece:
    """Text that is certain, and whether a stop string came right behind it."""

    text: str
    stopped: bool


class StopScanner:
    """Reads text in pieces and cuts it exactly before the stop string that is complete first.

    Of two that become complete at the same character, the longer one counts; so the result never depends on where the
    pieces are cut, and the text given out holds no stop string. Cost: linear in the text.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        """`stops` are not empty strings; without any, all text passes at once."""
        self._stops = tuple(stops)
        self._held = ""

    def push(self, text: str) -> Piece:
        """The text that became certain. After a stop there is nothing more to push."""
        text = self._held + text
        matches = [(begin + len(stop), begin) for stop in self._stops if (begin := text.find(stop)) >= 0]
        if matches:
            self._held = ""
            return Piece(text[: min(matches)[1]], stopped=True)
        certain = len(text) - self._undecided(text)
        self._held = text[certain:]
        return Piece(text[:certain], stopped=False)

    def finish(self) -> str:
        """What was held back because it could have become a stop string."""
        held, self._held = self._held, ""
        return held

    def _undecided(self, text: str) -> int:
        """Length of the longest end of the text that begins a stop string."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for length in range(min(longest, len(text)), 0, -1):
            end = text[-length:]
            if any(stop.startswith(end) for stop in self._stops):
                return length
        return 0
