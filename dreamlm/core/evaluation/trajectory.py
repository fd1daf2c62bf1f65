"""Vectors that a text leaves behind, one for each of its segments, and how alike those of different documents are.

Shapes: N vectors of a text, in the order of its segments; X numbers of a vector; U texts; D documents.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias, final

import numpy as np
import numpy.typing as npt

Trajectory: TypeAlias = npt.NDArray[np.floating[Any]]
"""(N, X): the vectors of a text, in order."""
Values: TypeAlias = npt.NDArray[np.float64]
"""What a figure is the mean of; none where there is nothing to measure."""


def norms(vectors_NX: Trajectory) -> Values:
    """Euclidean length of each vector."""
    length_N: Values = np.linalg.norm(vectors_NX, axis=1)
    return length_N


def cosines(one_NX: Trajectory, other_NX: Trajectory) -> Values:
    """Cosine of each vector and its partner, in [-1, 1]; not of pairs with a zero, which has no direction."""
    size_N = norms(one_NX) * norms(other_NX)
    there_N = size_N > 0
    cosine_N: Values = (one_NX * other_NX).sum(axis=1)[there_N] / size_N[there_N]
    return cosine_N.clip(-1, 1)


@final
class BatchDiversity:
    """1 - the mean cosine of vectors of different documents, in [0, 2]: 0 where documents leave the same behind.

    Compared are vectors after equally many segments, so that what all documents share as they go on does not count as
    a difference. All such pairs weigh the same; zeros have no direction and are left out.
    Cost: O(N X) for each call, by sums of unit vectors, though it is a mean over pairs.
    """

    def __init__(self, texts: Sequence[Trajectory], owner_U: npt.NDArray[np.int64]) -> None:
        """owner_U: the document that each text belongs to."""
        self._texts = [text / np.where(norms(text) > 0, norms(text), 1)[:, None] for text in texts]
        self._owner_U = owner_U

    def __call__(self, chosen_U: npt.NDArray[np.int64]) -> float:
        """Of the texts with these indices; NaN without a pair."""
        alike, pairs = 0.0, 0
        for number in range(max((len(self._texts[index]) for index in chosen_U), default=0)):
            there = [
                index for index in chosen_U if len(self._texts[index]) > number and self._texts[index][number].any()
            ]
            if not there:
                continue
            unit_UX = np.stack([self._texts[index][number] for index in there])
            _, place_U, count_D = np.unique(self._owner_U[there], return_inverse=True, return_counts=True)
            of_document_DX = np.zeros((len(count_D), unit_UX.shape[1]))
            np.add.at(of_document_DX, place_U, unit_UX)
            # Over ordered pairs: all of them, without those within a document.
            alike += float((unit_UX.sum(axis=0) ** 2).sum() - (of_document_DX**2).sum())
            pairs += len(there) ** 2 - int((count_D**2).sum())
        return min(max(1 - alike / pairs, 0.0), 2.0) if pairs else float("nan")
