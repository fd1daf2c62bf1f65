"""How much of a growing text the model reads, once it is longer than the windows it was trained on.

The rule looks at one row alone, so a row's text never depends on its neighbours; and it acts only every
`stride` tokens, so rows of different length are encoded again together instead of each at its own moment.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class ContextWindow:
    """A sliding window of at most `size` tokens, which the text outgrows and is then read again from its last half."""

    size: int
    """Tokens the model may attend to at once, at least 2."""

    @property
    def stride(self) -> int:
        """New tokens between two moments at which the window may slide."""
        return max(1, self.size // 8)

    def opening(self, length: int, coming: int) -> int:
        """How many of a prompt's newest tokens to read, so that the first of `coming` new tokens have room."""
        return min(length, self._room(coming))

    def kept(self, length: int, coming: int) -> int:
        """How many of the `length` newest tokens to go on with: all that were read, or half a window when room ends."""
        return length if length <= self._room(coming) else max(1, self.size // 2)

    def _room(self, coming: int) -> int:
        # The last token of a stride is chosen but not read before the window may slide again.
        return self.size - min(self.stride, coming) + 1
