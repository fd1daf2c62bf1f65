"""Lines in a frame, for a terminal."""

import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from rich.console import Console
    from rich.segment import Segment

Styled: TypeAlias = tuple[str, str]
"""A piece of text, and its style in rich's words."""
_BORDERS = 4
"""Columns beside the content of a frame."""
_LEAST = 8
"""Columns that lines have on the narrowest terminal."""
_WORD = re.compile(r"[^ ]+ *| +")


def framed(console: "Console", title: str, rows: Sequence[tuple[str, Sequence[Styled]]]) -> Iterator["Segment"]:
    """The pieces of a frame as wide as the console; rows as in `cli.console.Console.panel`.

    Drawn here because rich's panels parse and measure every line several times, which takes more than twice as long.
    """
    from rich.cells import set_cell_size
    from rich.segment import Segment
    from rich.style import Style

    fronts, bold = max(len(front) for front, _ in rows) + 1, Style(bold=True)
    inner = max(console.width - _BORDERS, fronts + _LEAST)
    head = title if _columns(title) <= inner - 2 else f"{set_cell_size(title, inner - 3)}…"
    before = f"╭─ {head} {'─' * (inner - 1 - _columns(head))}╮\n"
    for front, pieces in rows:
        for place, (line, left) in enumerate(_wrapped(pieces, inner - fronts)):
            if place:
                yield Segment(f"{before}│ {' ' * fronts}")
            else:
                yield Segment(f"{before}│ ")
                yield Segment(f"{front:<{fronts}}", bold)
            for style, run in groupby(line, itemgetter(1)):
                yield Segment("".join(text for text, _ in run), Style.parse(style))
            before = f"{' ' * left} │\n"
    yield Segment(f"{before}╰{'─' * (inner + 2)}╯\n")


def _wrapped(pieces: Sequence[Styled], columns: int) -> Iterator[tuple[list[Styled], int]]:
    """The pieces in lines of at most so many columns, each with the columns it leaves free.

    Lines are broken between words, and inside of words longer than a line.
    """
    line: list[Styled] = []
    left = columns
    for text, style in pieces:
        for part in [text] if _columns(text) <= left else _parts(text, columns):
            shown, wide = part, _columns(part)
            if wide > left:
                bare = part.rstrip(" ")
                needed = wide - (len(part) - len(bare))
                if needed > left:
                    yield line, left
                    line, left = [], columns
                if wide > left:
                    shown, wide = bare, needed
            line.append((shown, style))
            left -= wide
    yield line, left


def _parts(text: str, columns: int) -> Iterator[str]:
    """The words of a text, with the spaces behind them; pieces of those that are wider than so many columns."""
    from rich.cells import chop_cells

    for word in _WORD.findall(text):
        yield from [word] if _columns(word.rstrip(" ")) <= columns else chop_cells(word, columns)


def _columns(text: str) -> int:
    """Columns of a text. rich looks letters up one by one, which most texts do not need."""
    plain = text.replace("→", ">")
    if plain.isascii() and plain.isprintable():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)
