"""From the raw text of pages to prose: bad and repeated pages and running heads leave, broken lines are joined."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dreamlm.data_sources.cleaning import clean_text, encoding_defect, extraction_defect
from dreamlm.data_sources.sources.pieces import cut

RUNNING_HEAD_PAGES = 3
"""A first or last line that stands on this many pages, and on half of them, is no part of the text."""
REPEATED_FROM_LETTERS = 100
"""Pages with fewer letters are too alike by nature to be called repeated."""

_SMALL_LETTER = "a-z\u00df-\u00f6\u00f8-\u00ff\u03b1-\u03c9\u0430-\u045f"
_HYPHEN_AT_LINE_END = re.compile(rf"(?<=[^\W\d_])[-\u2010]\n(?=[{_SMALL_LETTER}])")
_LINE_BROKEN_IN_SENTENCE = re.compile(rf"(?<=[^\W\d_]|[,;])[^\S\n]*\n(?=[{_SMALL_LETTER}])")
_NO_LETTERS = re.compile(r"[\W\d_]+")


@dataclass(frozen=True)
class Dropped:
    """A part of a PDF that was left out: the reason with its unit, and the number of the page or piece from 1."""

    reason: str
    number: int


def prose_pieces(pages: Sequence[str | None], shortest: int, longest: int) -> Iterator[str | Dropped]:
    """Pieces of `shortest` to `longest` characters cut at sentence ends, and what was dropped on the way."""
    good: list[str] = []
    seen: set[bytes] = set()
    for number, raw in enumerate(pages, start=1):
        if raw is None:
            continue
        text = clean_text(raw)
        if not text:
            continue
        letters = _NO_LETTERS.sub("", text).casefold()
        digest = hashlib.blake2b(letters.encode(), digest_size=16).digest()
        defect = encoding_defect(raw) or extraction_defect(text)
        if defect is not None:
            yield Dropped(f"page: {defect}", number)
        elif len(letters) >= REPEATED_FROM_LETTERS and digest in seen:
            yield Dropped("page: repeated", number)
        else:
            seen.add(digest)
            good.append(text)
    text = clean_text(_joined_lines("\n".join(_without_running_heads(good))))
    yield from (piece.strip() for piece in cut([text], shortest, longest) if piece.strip())


def _joined_lines(text: str) -> str:
    """Words divided at a line end made whole, sentences broken over lines put on one line."""
    return _LINE_BROKEN_IN_SENTENCE.sub(" ", _HYPHEN_AT_LINE_END.sub("", text))


def _without_running_heads(pages: Sequence[str]) -> list[str]:
    """The pages without first and last lines that most of them share, page numbers aside."""
    counts = Counter(key for page in pages for key in {_head_key(line) for line in _edge_lines(page)})
    running = {key for key, count in counts.items() if count >= max(RUNNING_HEAD_PAGES, len(pages) / 2)}
    return [_stripped_edges(page, running) for page in pages]


def _edge_lines(page: str) -> tuple[str, str]:
    lines = page.split("\n")
    return lines[0], lines[-1]


def _head_key(line: str) -> str:
    return re.sub(r"\d+", "#", line.strip()).casefold()


def _stripped_edges(page: str, running: set[str]) -> str:
    lines = page.split("\n")
    if lines and _head_key(lines[0]) in running:
        lines = lines[1:]
    if lines and _head_key(lines[-1]) in running:
        lines = lines[:-1]
    return "\n".join(lines)
