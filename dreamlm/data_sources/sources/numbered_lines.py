"""The lines of a stream with their numbers, but for those that would exhaust the memory."""

from collections.abc import Callable, Iterator
from typing import IO, AnyStr


def numbered_lines(
    stream: IO[AnyStr], ends: tuple[AnyStr, ...], longest: int, on_overlong: Callable[[int], None]
) -> Iterator[tuple[int, AnyStr]]:
    """The lines, numbered from 1, with their ends.

    One of `longest` bytes or characters that has not ended is passed over in pieces, and `on_overlong` is told its
    number once.
    """
    number, passing = 1, False
    while line := stream.readline(longest):
        complete = line.endswith(ends) or len(line) < longest
        if passing:
            passing = not complete
        elif not complete:
            passing = True
            on_overlong(number)
        else:
            yield number, line
        number += complete
