"""Correctness: does an answer say what the reference answer says?"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeAlias

from dreamlm.core.rl.answer import Answer

Metric: TypeAlias = Literal["exact", "f1", "words"]
ARTICLES = re.compile(r"\b(a|an|the)\b")


def correctness(answers: Sequence[Answer], metric: Metric) -> tuple[float | None, ...]:
    """Each answer's text against `Prompt.reference`, in [0, 1]; None where nobody knows a reference answer.

    exact: 1 when the normalised texts are equal, else 0.
    f1: harmonic mean of precision and recall of their words, counted as often as they occur.
    words: share of the reference's different words that occur in the answer.
    Where normalisation leaves no word of one of the two, each metric is 1 if it leaves none of the other, else 0.

    Rewards falsely: f1 and words see no order and no negation, and words rewards an answer that lists everything.
    Source: Rajpurkar et al. 2016, "SQuAD", section 6.1 (exact, f1).
    """
    measure = METRICS[metric]
    return tuple(
        measure(normalised(answer.text), normalised(answer.prompt.reference)) if answer.prompt.reference else None
        for answer in answers
    )


def normalised(text: str) -> list[str]:
    """The words of a text: lower case; without punctuation, symbols and English articles; cut at white space.

    Departs from SQuAD: any script's punctuation goes, not ASCII's alone, and canonically equal characters are equal.
    A text in a script without spaces is one word.
    """
    lower = unicodedata.normalize("NFC", text.lower())
    kept = "".join(character for character in lower if unicodedata.category(character)[0] not in "PS")
    return ARTICLES.sub(" ", kept).split()


def _exact(said: list[str], wanted: list[str]) -> float:
    return float(said == wanted)


def _f1(said: list[str], wanted: list[str]) -> float:
    if not said or not wanted:
        return float(said == wanted)
    shared = (Counter(said) & Counter(wanted)).total()
    return 2 * shared / (len(said) + len(wanted))


def _words(said: list[str], wanted: list[str]) -> float:
    if not said or not wanted:
        return float(said == wanted)
    return len(set(wanted) & set(said)) / len(set(wanted))


METRICS: Mapping[Metric, Callable[[list[str], list[str]], float]] = {"exact": _exact, "f1": _f1, "words": _words}
