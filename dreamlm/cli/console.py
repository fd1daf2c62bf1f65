"""The only place that writes to the terminal: results to stdout, everything said on the side to stderr.

rich is imported when something is drawn on a terminal and not before. It heeds NO_COLOR by itself.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, TextIO

from dreamlm.core.errors import DreamLMError

QUIET_SECONDS = 1.0
"""Work shorter than this shows no progress."""
LINE_SECONDS = 10.0
"""Seconds between two plain progress lines when stderr is no terminal."""


def is_terminal(stream: TextIO) -> bool:
    """Whether a person reads this stream."""
    return stream.isatty()


class Console:
    """Writes for one command. With `as_json`, stdout carries JSON only, whichever method is called."""

    def __init__(self, as_json: bool = False) -> None:
        self.as_json = as_json

    def result(self, text: str) -> None:
        """A line of the command's result."""
        sys.stdout.write(text + "\n")

    def raw(self, text: str) -> None:
        """A piece of the result, shown at once and without a line end."""
        sys.stdout.write(text)
        sys.stdout.flush()

    def document(self, value: Any) -> None:
        """The command's result as one JSON document."""
        sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, default=_plain) + "\n")

    def json_line(self, value: Any) -> None:
        """One line of a result that is JSON lines, shown at once."""
        sys.stdout.write(json.dumps(value, ensure_ascii=False, default=_plain) + "\n")
        sys.stdout.flush()

    def table(self, headings: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Aligned columns as part of the result; numbers to the right, the last column as long as it is."""
        cells = [list(headings), *[[str(cell) for cell in row] for row in rows]]
        widths = [max(len(row[column]) for row in cells) for column in range(len(headings))]
        numeric = [
            bool(rows) and all(isinstance(row[column], int | float) for row in rows) for column in range(len(widths))
        ]
        for row in cells:
            aligned = [
                text.rjust(width) if right else text.ljust(width)
                for text, width, right in zip(row, widths, numeric, strict=True)
            ]
            self.result("  ".join(aligned).rstrip())

    def notice(self, text: str) -> None:
        """Something worth knowing while the command works."""
        sys.stderr.write(text + "\n")
        sys.stderr.flush()

    def warning(self, text: str) -> None:
        """Something that may not be what the user wants."""
        self._marked("warning:", text, "bold yellow")

    def error(self, error: DreamLMError) -> None:
        """What happened, where, what is valid and what helps."""
        self._marked("error:", str(error), "bold red")

    def _marked(self, mark: str, text: str, style: str) -> None:
        if is_terminal(sys.stderr):
            from rich.console import Console as RichConsole
            from rich.text import Text

            RichConsole(stderr=True).print(Text(mark, style), Text(text), soft_wrap=True)
        else:
            self.notice(f"{mark} {text}")

    @contextmanager
    def progress(self, title: str) -> Iterator["Progress"]:
        """A progress display that lives as long as the block: a bar on a terminal, else a line now and then."""
        progress: Progress = Bar(title) if is_terminal(sys.stderr) else Lines(title, self.notice)
        try:
            yield progress
        finally:
            progress.close()


class Progress:
    """Shows how far one piece of work is. Interface of `Bar` and `Lines`."""

    def update(self, done: float, total: float | None, note: str = "") -> None:
        """`done` of `total` units (None: unknown), with a note such as `12.3 MB/s`."""
        raise NotImplementedError

    def close(self) -> None:
        """The work is over."""
        raise NotImplementedError


class Bar(Progress):
    """A bar with the time left, drawn once the work has taken longer than `QUIET_SECONDS`."""

    def __init__(self, title: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._title, self._clock, self._began = title, clock, clock()
        self._bar: Any = None
        self._task: Any = None

    def update(self, done: float, total: float | None, note: str = "") -> None:
        if self._bar is None:
            if self._clock() - self._began < QUIET_SECONDS:
                return
            self._start()
        self._bar.update(self._task, completed=done, total=total, note=note)

    def _start(self) -> None:
        from rich import progress
        from rich.console import Console as RichConsole

        self._bar = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.TaskProgressColumn(),
            progress.TextColumn("{task.fields[note]}"),
            progress.TimeRemainingColumn(compact=True),
            console=RichConsole(stderr=True),
            transient=True,
        )
        self._task = self._bar.add_task(self._title, total=None, note="")
        self._bar.start()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()


class Lines(Progress):
    """A plain line every `LINE_SECONDS`, for logs; the first one after that long."""

    def __init__(self, title: str, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._title, self._write, self._clock = title, write, clock
        self._began = self._last = clock()

    def update(self, done: float, total: float | None, note: str = "") -> None:
        now = self._clock()
        if now - self._last < LINE_SECONDS:
            return
        self._last = now
        share = f" {100 * done / total:.0f} %" if total else f" {done:,.0f}"
        left = f" {duration((now - self._began) * (total - done) / done)} left" if total and done else ""
        self._write(f"{self._title}:{share}{' ' + note if note else ''}{left}")

    def close(self) -> None:
        """Nothing stays open."""


def duration(seconds: float) -> str:
    """`0:42`, `12:05` or `3:07:00`: what people read as a time span."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _plain(value: object) -> object:
    """What JSON does not know, in what it knows."""
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"a result holds a {type(value).__name__}, which has no JSON form")
