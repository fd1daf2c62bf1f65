"""The lines of a CSV file, for a reader that may have to go back: a quote that is never closed takes them all."""

from collections import deque
from collections.abc import Callable, Iterator
from typing import TextIO

from dreamlm.data_sources.sources.numbered_lines import numbered_lines


class CsvLines(Iterator[str]):
    """Lines for a `csv.reader`; those of a row that went wrong are given once more, but for the one it began with."""

    def __init__(self, text: TextIO, longest: int, on_overlong: Callable[[int], None]):
        """A line of `longest` characters is passed over, and `on_overlong` is told its number."""
        self._numbered = numbered_lines(text, ("\r", "\n"), longest, on_overlong)
        self._again: deque[tuple[int, str]] = deque()
        self._row: list[tuple[int, str]] = []
        self.number = 0
        """Of the line that was given last, from 1."""
        self.ended = False
        """Whether a line was asked for behind the last: whoever has a row nevertheless was inside of a quoted field."""

    def __next__(self) -> str:
        numbered = self._again.popleft() if self._again else next(self._numbered, None)
        if numbered is None:
            self.ended = True
            raise StopIteration
        self.number, line = numbered
        if self._row or line.strip("\r\n"):
            self._row.append(numbered)
        return line

    def begin_row(self) -> None:
        """What was given until now is done with."""
        self._row.clear()

    def without_its_first(self) -> int:
        """Give the lines of this row again, but for the first; the number of that one."""
        (first, _), *others = self._row
        self._again.extendleft(reversed(others))
        self.ended = False
        return first
