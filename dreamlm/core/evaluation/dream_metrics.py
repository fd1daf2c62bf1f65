"""What can be said of dreams: who dreams which, what decides that, and how alike dreams are.

Measures of one text return the values that a figure is the mean of; none where there is nothing to measure. Measures of
a set are called with the texts that count.

Shapes: U texts, K segments of a text; N dreams of a segment, V numbers of a dream, E experts; A categories that a dream
can fall into.
"""

from collections.abc import Sequence
from itertools import combinations
from math import log2
from typing import final

import numpy as np
import numpy.typing as npt

from dreamlm.core.evaluation.trajectory import BatchDiversity, Trajectory, Values, cosines

SHUFFLES = 20
"""Of the dreams' numbers, for what mutual information would be by chance."""
ROUNDING = 1e-12
"""Bits that are none."""


def distances(dreams_KNV: npt.NDArray[np.float32]) -> Values:
    """1 - cosine of every two dreams of a segment, in [0, 2]: 0 where a segment has but one dream, several times.

    None where there is one dream, nor of pairs with a zero.
    """
    pairs = combinations(range(dreams_KNV.shape[1]), 2)
    each = (1 - cosines(dreams_KNV[:, one], dreams_KNV[:, other]) for one, other in pairs)
    return np.concatenate([np.zeros(0), *each])


def load(gate_KNE: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """(N, E): how many segments chose each expert for each dream. Divided by the sum over E, the expert's load."""
    count_NE: npt.NDArray[np.float64] = (gate_KNE > 0).sum(axis=0).astype(np.float64)
    return count_NE


def most_chosen(gates: Sequence[npt.NDArray[np.float32]]) -> int:
    """How many experts were chosen for a dream, at most; 1 at least."""
    return max(int((gate_KNE > 0).sum(axis=2).max(initial=1)) for gate_KNE in gates)


def first_experts(gate_KNE: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """(K, N): the expert that weighs most in each dream."""
    first_KN: npt.NDArray[np.int64] = gate_KNE.argmax(axis=2)
    return first_KN


def expert_sets(gates: Sequence[npt.NDArray[np.float32]]) -> list[npt.NDArray[np.int64]]:
    """(K, N) for each text: which set of experts was chosen for each dream, the sets that occur numbered from 0."""
    chosen_ZE = np.concatenate([(gate_KNE > 0).reshape(-1, gate_KNE.shape[2]) for gate_KNE in gates])
    _, number_Z = np.unique(chosen_ZE, axis=0, return_inverse=True)
    ends = np.cumsum([gate_KNE.shape[0] * gate_KNE.shape[1] for gate_KNE in gates])
    parts = np.split(number_Z.reshape(-1).astype(np.int64), ends[:-1])
    return [part.reshape(gate_KNE.shape[:2]) for part, gate_KNE in zip(parts, gates, strict=True)]


@final
class SameDream:
    """1 - the mean cosine of the same dream of different documents, after equally many segments, in [0, 2].

    A mean over the numbers of dreams; see `BatchDiversity`.
    """

    def __init__(self, texts: Sequence[npt.NDArray[np.float32]], owner_U: npt.NDArray[np.int64]) -> None:
        """texts: (K, N, V) each."""
        self._each = [BatchDiversity(_of_dream(texts, number), owner_U) for number in range(texts[0].shape[1])]

    def __call__(self, chosen_U: npt.NDArray[np.int64]) -> float:
        """Of the texts with these indices; NaN without a pair."""
        return float(np.mean([one(chosen_U) for one in self._each]))


@final
class Routing:
    """How a choice among A categories, made for each dream of each segment, depends on the dream's number N.

    From the shares p(n, a) of all dreams, with p(n) the same for each number, all logarithms to the base of 2:

        I(A; N)   mutual information      sum p(n, a) log p(a | n) / p(a)     in [0, log min(N, A)]
        H(A | N)  conditional entropy   - sum p(n, a) log p(a | n)            in [0, log A]

    They add up to the entropy H(A) of the choice. The gate draws nothing when a model is measured: of what it chooses
    for a dream of a given number only the text decides, so that H(A | N) is what the text tells of the choice, and
    I(A; N) what the number tells. Neither says that the choice matters to anything.

    Both are plug-in estimates. Of M segments that are independent of one another H(A | N) is too small by about
    (A - 1) / (2 M ln 2) bits, and I too large by (N - 1) / N of that; `by_chance` says how large I is without a reason.

    Source: Cover & Thomas 2006, chapter 2; Miller 1955, "Note on the bias of information estimates".
    """

    def __init__(self, texts: Sequence[npt.NDArray[np.int64]]) -> None:
        """texts: (K, N) each, the category of each dream, from 0."""
        self._texts, self._dreams = texts, texts[0].shape[1]
        self._categories = max((int(text.max(initial=0)) for text in texts), default=0) + 1
        self._count_UNA = np.stack([self._counts(text_KN) for text_KN in texts])

    def mutual_information(self, chosen_U: npt.NDArray[np.int64]) -> float:
        """I(A; N) in bits, of the texts with these indices; NaN without a segment."""
        count_NA = self._count_UNA[chosen_U].sum(axis=0)
        return _mutual_information(count_NA) if count_NA.any() else float("nan")

    def conditional_entropy(self, chosen_U: npt.NDArray[np.int64]) -> float:
        """H(A | N) in bits, of the texts with these indices; NaN without a segment."""
        count_NA = self._count_UNA[chosen_U].sum(axis=0)
        return _conditional_entropy(count_NA) if count_NA.any() else float("nan")

    def by_chance(self, seed: int) -> float:
        """The mean I(A; N) when the numbers of each segment's dreams are shuffled, as if they told nothing; 0 without a
        segment."""
        together_KN = np.concatenate(list(self._texts))
        if not len(together_KN):
            return 0.0
        generator = np.random.default_rng(seed)
        shuffled = (generator.permuted(together_KN, axis=1) for _ in range(SHUFFLES))
        return float(np.mean([_mutual_information(self._counts(one_KN)) for one_KN in shuffled]))

    def _counts(self, category_KN: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        of_each = [np.bincount(category_K, minlength=self._categories) for category_K in category_KN.T]
        return np.stack(of_each).astype(np.float64)


def _mutual_information(count_NA: npt.NDArray[np.float64]) -> float:
    # As H(N) - H(N | A), which is exact where every category belongs to one number.
    count_AN = count_NA.T[count_NA.any(axis=0)]
    left = float(np.average([_entropy(count_N) for count_N in count_AN], weights=count_AN.sum(axis=1)))
    found = log2(len(count_NA)) - left
    return found if found > ROUNDING else 0.0


def _conditional_entropy(count_NA: npt.NDArray[np.float64]) -> float:
    # Every number has as many dreams.
    return float(np.mean([_entropy(count_A) for count_A in count_NA]))


def _entropy(count_A: npt.NDArray[np.float64]) -> float:
    share_A = count_A[count_A > 0] / count_A.sum()
    return abs(float((share_A * np.log2(share_A)).sum()))


def _of_dream(texts: Sequence[npt.NDArray[np.float32]], number: int) -> list[Trajectory]:
    return [text_KNV[:, number] for text_KNV in texts]
