"""The only place that writes to the terminal: results to stdout, everything said on the side to stderr.

rich is imported when something is drawn on a terminal and not before. It heeds NO_COLOR by itself.
"""

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamlm.cli.aside import aside
from dreamlm.cli.canvas import Canvas, Piece, PlainCanvas
from dreamlm.cli.frame import Styled, framed
from dreamlm.cli.live_line import LiveLine, PlainLine
from dreamlm.core.errors import DreamLMError

if TYPE_CHECKING:
    from rich.console import Console as RichConsole


class Console:
    """Writes for one command. With `as_json`, stdout carries JSON only, whichever method is called."""

    def __init__(self, as_json: bool = False) -> None:
        self.as_json = as_json
        self._line: LiveLine | None = None

    @cached_property
    def _terminal(self) -> "RichConsole":
        """What draws on stderr: one for all, because what stays has to come through what draws over."""
        from rich.console import Console as RichConsole

        return RichConsole(stderr=True, highlight=False, markup=False)

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
            aside(sys.stderr, text)

    def warning(self, text: str) -> None:
        """Something that may not be what the user wants."""
        self._marked("warning:", text, "bold yellow")

    def error(self, error: DreamLMError) -> None:
        """What happened, where, what is valid and what helps."""
        self._marked("error:", str(error), "bold red")

    def _marked(self, mark: str, text: str, style: str) -> None:
        if self.talks_to_a_person and self._line is None:
            from rich.text import Text

            self._terminal.print(Text(mark, style), Text(text), soft_wrap=True)
        else:
            self.notice(f"{mark} {text}")

    def panel(self, title: str, rows: Sequence[tuple[str, Sequence[Styled]]]) -> None:
        """Something to look at while the command works: a frame on a terminal, else a heading and indented lines.

        rows: what stands in front of a line, and the line.
        """
        if not self.talks_to_a_person:
            width = max(len(front) for front, _ in rows)
            lines = (f"  {front:<{width}}  {''.join(text for text, _ in line)}" for front, line in rows)
            self.notice("\n".join([title, *lines]))
            return
        from rich.segment import Segments

        self._terminal.print(Segments(framed(self._terminal, title, rows)), end="", soft_wrap=True)

    @contextmanager
    def live(self) -> Iterator[LiveLine]:
        """One line that keeps changing while the block works; without a terminal, a plain line now and then."""
        self._line = TerminalLine(self._terminal) if self.talks_to_a_person else PlainLine(sys.stderr)
        try:
            yield self._line
        finally:
            line, self._line = self._line, None
            line.close()

    @contextmanager
    def canvas(self) -> Iterator[Canvas]:
        """Lines that are drawn again and again while the block works, and are gone behind it; without a terminal, plain
        lines that stay."""
        if not self.talks_to_a_person:
            yield PlainCanvas(sys.stderr)
            return
        canvas = TerminalCanvas(self._terminal)
        try:
            yield canvas
        finally:
            canvas.close()


class TerminalLine(LiveLine):
    """A line at the bottom of the terminal, cut to its width, with a bar where the share done is known."""

    def __init__(self, console: "RichConsole") -> None:
        from rich.live import Live

        self._console = console
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
        with suppress(OSError):  # as `aside`: the terminal may be gone
            self._console.print(text, soft_wrap=True)

    def close(self) -> None:
        with suppress(OSError):
            self._live.stop()


class TerminalCanvas(Canvas):
    """Lines at the bottom of the terminal, as many of them as fit. Drawn by a thread, however often they change."""

    def __init__(self, console: Any) -> None:
        """console: rich's."""
        from rich.live import Live

        self._lines: Sequence[Sequence[Piece]] = ()
        self._live = Live(
            console=console, transient=True, refresh_per_second=12, redirect_stdout=False, get_renderable=self._drawn
        )
        self._live.start()

    def show(self, lines: Sequence[Sequence[Piece]]) -> None:
        self._lines = lines

    def close(self) -> None:
        self._live.stop()

    def _drawn(self) -> Any:
        from rich.text import Text

        lines = [Text.assemble(*((piece.text, _style(piece.shade)) for piece in line)) for line in self._lines]
        return Text("\n").join(lines)


def _style(shade: float | None) -> str:
    """Black on a green that goes from nearly white to dark, so that it can be read on any terminal."""
    if shade is None:
        return ""
    light = round(240 - 150 * shade)
    return f"black on #{light:02x}{round(245 - 50 * shade):02x}{light:02x}"


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
