"""Long text cut into pieces at the ends of sentences."""

import re
from collections.abc import Iterable, Iterator

_PARAGRAPH_END = re.compile(r"\n[^\S\n]*\n")
_SENTENCE_END = re.compile("[.!?…][\"'\u201d\u2019)\\]]*(?=\\s)|[\u3002\uff01\uff1f]")
_SPACE = re.compile(r"\s")


def cut(blocks: Iterable[str], shortest: int, longest: int, at_paragraphs: bool = False) -> Iterator[str]:
    """Pieces of `shortest` to `longest` characters that end with a sentence, or a paragraph where one ends in range.

    Only a text's last piece may be shorter. Where no sentence ends in range the cut is at a space, else anywhere. The
    result does not depend on how the text is divided into blocks; at most one block and two pieces are held.
    """
    kept = ""
    for block in blocks:
        kept += block
        start = 0
        while len(kept) - start >= longest + shortest:
            end = start + _cut_position(kept[start : start + longest + 1], shortest, longest, at_paragraphs)
            yield kept[start:end]
            start = end
        kept = kept[start:]
    while len(kept) > longest:
        limit = max(shortest, len(kept) - shortest)
        end = _cut_position(kept[: limit + 1], shortest, min(limit, longest), at_paragraphs)
        yield kept[:end]
        kept = kept[end:]
    if kept:
        yield kept


def _cut_position(window: str, shortest: int, longest: int, at_paragraphs: bool) -> int:
    """Where to cut: the last good place in `shortest`..`longest`; the window holds one character more to look at."""
    for pattern in (_PARAGRAPH_END, _SENTENCE_END, _SPACE) if at_paragraphs else (_SENTENCE_END, _SPACE):
        ends = [match.end() for match in pattern.finditer(window, max(0, shortest - 1))]
        fitting = [end for end in ends if shortest <= end <= longest]
        if fitting:
            return fitting[-1]
    return longest
