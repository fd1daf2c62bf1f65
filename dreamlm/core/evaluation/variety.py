"""What is counted in the words of a set of texts, whoever wrote them.

Shapes: N texts, M n-grams of one length in all texts.
"""

from collections.abc import Sequence
from typing import final

import numpy as np
import numpy.typing as npt

from dreamlm.core.rl.rewards.ngrams import distinct_share, ngrams


@final
class NgramPool:
    """The n-grams of one length of a set of texts; none reaches from one text into another."""

    def __init__(self, texts: Sequence[Sequence[int]], length: int) -> None:
        """The words of each text, as numbers."""
        numbers: dict[tuple[int, ...], int] = {}
        grams = [[numbers.setdefault(gram, len(numbers)) for gram in ngrams(text, length)] for text in texts]
        self._gram_M = np.array([gram for text in grams for gram in text], dtype=np.int64)
        self._text_M = np.repeat(np.arange(len(texts)), [len(text) for text in grams])

    def __len__(self) -> int:
        return len(self._gram_M)

    def distinct(self, chosen: npt.NDArray[np.int64]) -> float:
        """distinct-n of the chosen texts: their different n-grams by all their n-grams, in (0, 1]; NaN without any.

        It falls with the number of texts and with their length: only sets of equal size compare.
        Source: Li et al. 2016, "A Diversity-Promoting Objective Function for Neural Conversation Models".
        Departs: the paper divides by all words, we by all n-grams, so that texts without repetition have 1 for any n.
        """
        counts = self._counts(chosen)
        return len(counts) / int(counts.sum()) if len(counts) else float("nan")

    def entropy(self, chosen: npt.NDArray[np.int64]) -> float:
        """Ent-n of the chosen texts: -sum p log2 p in bits, p the share of each different n-gram; NaN without any.

        From 0 to log2 of the number of n-grams, which it reaches when no n-gram comes twice. Where distinct-n asks
        whether an n-gram repeats, it asks how often: one phrase in every text costs more than many phrases in two.
        Source: Zhang et al. 2018, "Generating Informative and Diverse Conversational Responses via Adversarial
        Information Maximization", section 4 (Ent-n).  Departs: bits instead of nats.
        """
        counts = self._counts(chosen)
        if not len(counts):
            return float("nan")
        share = counts / counts.sum()
        return float(abs((share * np.log2(share)).sum()))

    def _counts(self, chosen: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """How often each different n-gram occurs in the chosen texts."""
        counts = np.bincount(self._gram_M[np.isin(self._text_M, chosen)])
        return counts[counts > 0]


def repetition(text: Sequence[int], length: int) -> float | None:
    """Share of a text's n-grams that occurred earlier in it, in [0, 1); None when it has none.

    Source: Welleck et al. 2020, "Neural Text Generation with Unlikelihood Training", section 5 (seq-rep-n).
    """
    return 1 - distinct_share(text, length) if len(text) >= length else None
