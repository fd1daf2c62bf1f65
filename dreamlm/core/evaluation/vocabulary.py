"""Texts as numbered words, so that models with different tokenizers are measured in the same unit."""

import re
from collections.abc import Sequence

_ONE_EACH = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
"""Han and kana, which are written without spaces: each character counts as a word."""
WORD = re.compile(rf"[{_ONE_EACH}]|[^\W{_ONE_EACH}]+|[^\w\s]")


def words_of(text: str) -> list[str]:
    """Runs of letters, digits and underscores, and every other visible character by itself; case is kept.

    Departs: from tokenizers made for one language. Thai, Khmer and others without spaces come out as long words.
    """
    return WORD.findall(text)


def numbered(texts: Sequence[Sequence[str]]) -> list[list[int]]:
    """Each different word of all texts as a number of its own, from 0."""
    numbers: dict[str, int] = {}
    return [[numbers.setdefault(word, len(numbers)) for word in text] for text in texts]
