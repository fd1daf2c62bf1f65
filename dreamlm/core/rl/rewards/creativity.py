"""Creativity: does an answer vary its words, and are they its own?"""

from collections.abc import Callable, Sequence
from typing import TypeAlias

from dreamlm.core.rl.answer import Answer
from dreamlm.core.rl.rewards.ngrams import distinct_share, ngrams, own_tokens

GRAM_LENGTH = 4
"""Of the n-grams that are looked for elsewhere."""

Seen: TypeAlias = Callable[[Sequence[int]], Sequence[bool]]
"""Of every run of GRAM_LENGTH ids in order: does it occur in the training text?"""


def nothing_seen(ids: Sequence[int]) -> Sequence[bool]:
    """For rewards that know no training text."""
    return [False] * (len(ids) - GRAM_LENGTH + 1)


def creativity(answers: Sequence[Answer], seen: Seen = nothing_seen) -> tuple[float, ...]:
    """(distinct-1 + distinct-2) / 2 * (1 - share of 4-grams that occur in the prompt or were seen), in [0, 1].

    distinct-n is the share of different n-grams among the answer's, without its end-of-document token. Fewer than 4
    tokens show nothing of their own and have 0: otherwise the shortest answer would be the most creative.

    Rewards falsely: random tokens, which never repeat anything; `coherence` gives them close to nothing. Distinct-n
    falls with length in any natural text, so answers of different length do not compare well.
    Source: Li et al. 2016, "A Diversity-Promoting Objective Function for Neural Conversation Models" (distinct-n).
    """
    return tuple(_creativity(own_tokens(answer), answer.prompt_ids, seen) for answer in answers)


def _creativity(written: Sequence[int], prompt: Sequence[int], seen: Seen) -> float:
    grams = ngrams(written, GRAM_LENGTH)
    if not grams:
        return 0.0
    prompted = set(ngrams(prompt, GRAM_LENGTH))
    own = sum(gram not in prompted and not known for gram, known in zip(grams, seen(written), strict=True))
    return (distinct_share(written, 1) + distinct_share(written, 2)) / 2 * own / len(grams)
