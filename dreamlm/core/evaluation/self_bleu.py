"""Self-BLEU: how much the texts of a set resemble one another.

Shapes: N texts, V different n-grams of one length.
"""

from collections import Counter
from collections.abc import Sequence
from typing import final

import numpy as np
import numpy.typing as npt

from dreamlm.core.rl.rewards.ngrams import ngrams

LONGEST = 4
SMOOTHING = 0.1
"""Counts of n-grams that match nothing: `SmoothingFunction().method1` of nltk, which Texygen uses."""


@final
class SelfBleu:
    """Mean BLEU-4 of each text of a set with all others as references, in [0, 1]; 1: every text is in the set twice.

    BLEU of a text: the geometric mean over n = 1..4 of the share of its n-grams that one of the others has at least as
    often, times exp(1 - r / c) when its c words are fewer than the r of the other that is closest in length. A share of
    0 counts as 0.1 n-grams; without a single common word BLEU is 0. A set of one text has none.

    It rises with the number of texts, for each then has more others to resemble.
    Source: Zhu et al. 2018, "Texygen", section 3.1; Papineni et al. 2002; smoothing 1 of Chen & Cherry 2014.
    Cost: linear in the words of the set (a naive one is quadratic in the texts).
    """

    def __init__(self, texts: Sequence[Sequence[int]]) -> None:
        """The words of each text, as numbers."""
        self._length_N = np.array([len(text) for text in texts], dtype=np.int64)
        self._orders = [_Order(texts, length) for length in range(1, LONGEST + 1)]

    def __call__(self, chosen: npt.NDArray[np.int64]) -> float:
        """Self-BLEU of the chosen texts alone; NaN when they are fewer than two."""
        if len(chosen) < 2:
            return float("nan")
        length_N = self._length_N[chosen]
        matched = [order.matched(chosen) for order in self._orders]
        log_N = np.zeros(len(chosen))
        for fewer, matched_N in enumerate(matched):
            share_N = np.where(matched_N == 0, SMOOTHING, matched_N) / np.maximum(1, length_N - fewer)
            log_N += np.log(share_N) / LONGEST
        closest_N = _closest_other(length_N)
        brevity_N = np.minimum(0.0, 1 - closest_N / np.maximum(1, length_N))
        return float(np.where(matched[0] == 0, 0.0, np.exp(log_N + brevity_N)).mean())


class _Order:
    """The n-grams of one length: which ones each text has, and how often."""

    def __init__(self, texts: Sequence[Sequence[int]], length: int) -> None:
        numbers: dict[tuple[int, ...], int] = {}
        self._texts = []
        for text in texts:
            counts = Counter(numbers.setdefault(gram, len(numbers)) for gram in ngrams(text, length))
            pair = (np.array(list(counts), dtype=np.int64), np.array(list(counts.values()), dtype=np.int64))
            self._texts.append(pair)
        self._size = len(numbers)

    def matched(self, chosen: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """How many n-grams of each chosen text another chosen one has as well, as often at most as that one has it."""
        most_V, second_V = np.zeros(self._size, dtype=np.int64), np.zeros(self._size, dtype=np.int64)
        owner_V = np.full(self._size, -1, dtype=np.int64)
        for text in chosen:
            grams, counts = self._texts[text]
            more = counts > most_V[grams]
            second_V[grams] = np.maximum(second_V[grams], np.where(more, most_V[grams], counts))
            most_V[grams] = np.maximum(most_V[grams], counts)
            owner_V[grams[more]] = text
        matched = []
        for text in chosen:
            grams, counts = self._texts[text]
            others = np.where(owner_V[grams] == text, second_V[grams], most_V[grams])
            matched.append(np.minimum(counts, others).sum())
        return np.array(matched, dtype=np.int64)


def _closest_other(length_N: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """For each text the length of the other that is closest to its own; of two, the shorter."""
    order_N = np.argsort(length_N, kind="stable")
    sorted_N = length_N[order_N]
    below_N = np.concatenate([[-np.inf], sorted_N[:-1]])
    above_N = np.concatenate([sorted_N[1:], [np.inf]])
    closest_N = np.empty(len(length_N), dtype=np.int64)
    closest_N[order_N] = np.where(sorted_N - below_N <= above_N - sorted_N, below_N, above_N)
    return closest_N
