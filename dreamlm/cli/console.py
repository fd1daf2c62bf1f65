"""The only place that writes to the terminal: results to stdout, everything said on the side to stderr.

rich is imported when something is drawn on a terminal and not before. It heeds NO_COLOR by itself.
"""

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from dreamlm.cli.live_line import LiveLine, PlainLine
from dreamlm.core.errors import DreamLMError


class Console:
    """Writes for one command. With `as_json`, stdout carries JSON only, whichever method is called."""

    def __init__(self, as_json: bool = False) -> None:
        self.as_json = as_json
        self._line: LiveLine | None = None

    @property
    def talks_to_a_person(self) -> bool:
        """Whether somebody can read stderr as it comes."""
        return sys.stderr.isatty()

    @property
    def can_ask(self) -> bool:
        """Whether somebody can read a question and answer it."""
        return self.talks_to_a_person and sys.stdin.isatty()

    def result(self, text: str) -> None:
        """A line of the command's result."""
        sys.stdout.write(text + "\n")

    def raw(self, text: str) -> None:
        """A piece of the result, shown at once and without a line end."""
        sys.stdout.write(text)
        sys.stdout.flush()

    def document(self, value: Any) -> None:
        """The command's result as one JSON document."""
        sys.stdout.write(_json(value, indent=2) + "\n")

    def json_line(self, value: Any) -> None:
        """One line of a result that is JSON lines, shown at once."""
        sys.stdout.write(_json(value) + "\n")
        sys.stdout.flush()

    def table(self, headings: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Aligned columns as part of the result; columns of numbers to the right."""
        cells = [
            list(headings),
            *[[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in rows],
        ]
        columns = range(len(headings))
        widths = [max(len(row[column]) for row in cells) for column in columns]
        numeric = [bool(rows) and all(isinstance(row[column], int | float) for row in rows) for column in columns]
        for row in cells:
            aligned = [
                text.rjust(width) if right else text.ljust(width)
                for text, width, right in zip(row, widths, numeric, strict=True)
            ]
            self.result("  ".join(aligned).rstrip())

    def ask(self, question: str) -> str:
        """What the user answers on one line; the question goes to stderr, because stdout is for results."""
        sys.stderr.write(question)
        sys.stderr.flush()
        return sys.stdin.readline().strip()

    def notice(self, text: str) -> None:
        """Something worth knowing while the command works."""
        if self._line is not None:
            self._line.print_above(text)
        else:
            sys.stderr.write(text + "\n")
            sys.stderr.flush()

    def warning(self, text: str) -> None:
        """Something that may not be what the user wants."""
        self._marked("warning:", text, "bold yellow")

    def error(self, error: DreamLMError) -> None:
        """What happened, where, what is valid and what helps."""
        self._marked("error:", str(error), "bold red")

    def _marked(self, mark: str, text: str, style: str) -> None:
        if self.talks_to_a_person and self._line is None:
            from rich.console import Console as RichConsole
            from rich.text import Text

            RichConsole(stderr=True).print(Text(mark, style), Text(text), soft_wrap=True)
        else:
            self.notice(f"{mark} {text}")

    @contextmanager
    def live(self) -> Iterator[LiveLine]:
        """One line that keeps changing while the block works; without a terminal, a plain line now and then."""
        self._line = TerminalLine() if self.talks_to_a_person else PlainLine(sys.stderr)
        try:
            yield self._line
        finally:
            line, self._line = self._line, None
            line.close()


class TerminalLine(LiveLine):
    """A line at the bottom of the terminal, cut to its width, with a bar where the share done is known."""

    def __init__(self) -> None:
        from rich.console import Console as RichConsole
        from rich.live import Live

        self._console = RichConsole(stderr=True, highlight=False, markup=False)
        self._live = Live(console=self._console, transient=True, refresh_per_second=4)
        self._live.start()

    def show(self, text: str, share: float | None = None) -> None:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        row = Table.grid(padding=(0, 1))
        cells: list[Any] = [Text(text, no_wrap=True, overflow="ellipsis")]
        if share is not None:
            cells.insert(0, ProgressBar(total=1.0, completed=share, width=24))
        row.add_row(*cells)
        self._live.update(row)

    def print_above(self, text: str) -> None:
        self._console.print(text, soft_wrap=True)

    def close(self) -> None:
        self._live.stop()


def _json(value: Any, indent: int | None = None) -> str:
    """Strict JSON: a dataclass is an object, a path is text, and so are NaN and the infinities, which JSON lacks."""
    return json.dumps(_plain(value), indent=indent, ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, Path) or (isinstance(value, float) and not math.isfinite(value)):
        return str(value)
    return value
