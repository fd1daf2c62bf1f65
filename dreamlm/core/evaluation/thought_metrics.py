"""What can be said of the thoughts of one text, and of those of many.

A thought is a point: X numbers between -1 and 1. Measures of one text return the values that the figure is the mean of,
one for each thought, each pair of consecutive thoughts, or the text as a whole; none where there is nothing to measure,
so that every value is finite. Measures of a set are called with the texts that count.

Shapes: N thoughts of a text, in the order of its segments; X numbers of a thought; U texts.
"""

from collections.abc import Sequence
from typing import final

import numpy as np
import numpy.typing as npt

from dreamlm.core.evaluation.trajectory import Trajectory, Values, cosines, norms

NOTHING: Values = np.zeros(0)


def norm_deviation(thoughts_NX: Trajectory) -> Values:
    """Standard deviation of the norms within the text (dividing by N); none below two thoughts."""
    return np.array([norms(thoughts_NX).std()]) if len(thoughts_NX) > 1 else NOTHING


def stability(thoughts_NX: Trajectory) -> Values:
    """1 / (1 + cv) of the norms, cv = standard deviation / mean, in (0, 1]; 1 where all thoughts are equally long.

    None below two thoughts, and where all of them are zero.
    """
    length_N = norms(thoughts_NX)
    if len(length_N) < 2 or not length_N.any():
        return NOTHING
    variation = float(length_N.std() / length_N.mean())
    return np.array([1 / (1 + variation)])


def changes(thoughts_NX: Trajectory) -> Values:
    """||x_n - x_(n-1)|| of each thought but the first: how far it lies from the one before."""
    return norms(np.diff(thoughts_NX, axis=0))


def evolution_rate(thoughts_NX: Trajectory) -> Values:
    """Mean change by mean norm, from 0 up; sqrt(2) of independent thoughts of equal length, 2 of opposite ones.

    None below two thoughts, and where all of them are zero.
    """
    if len(thoughts_NX) < 2 or not thoughts_NX.any():
        return NOTHING
    return np.array([changes(thoughts_NX).mean() / norms(thoughts_NX).mean()])


def temporal_cosine(thoughts_NX: Trajectory) -> Values:
    """Cosine of each thought and the one before, in [-1, 1]; not of pairs with a zero, which has no direction."""
    return cosines(thoughts_NX[:-1], thoughts_NX[1:])


def saturation(thoughts_NX: Trajectory, above: float) -> Values:
    """Of each thought, the share of numbers whose size exceeds `above`.

    Thoughts end in a tanh: such numbers lie where it is flat, hold little more than their sign, and pass little
    gradient (1 - x^2, so a tenth at 0.95).
    """
    share_N: Values = (np.abs(thoughts_NX) > above).mean(axis=1)
    return share_N


def sparsity(thoughts_NX: Trajectory, below: float) -> Values:
    """Of each thought, the share of numbers whose size is less than `below`: those that say next to nothing."""
    share_N: Values = (np.abs(thoughts_NX) < below).mean(axis=1)
    return share_N


def entropy(thoughts_NX: Trajectory) -> Values:
    """Of each thought, -sum p log p / log X with p = |x_i| / sum |x|, in [0, 1]: how evenly its numbers share its size.

    1 where all numbers are equally large, 0 where one is all there is. It looks inside one thought at a time, where
    effective dimensionality looks at the directions in which many thoughts differ: thoughts that are all the same
    may have an entropy of 1, and have no dimensionality at all. (The entropy of the spectrum, Roy & Vetterli 2007,
    would be effective dimensionality once more, with another mean.) None of a zero, nor where a thought is one number.
    Source: Shannon 1948, section 6, as Pielou's evenness (1966).
    """
    share_NX = np.abs(thoughts_NX[thoughts_NX.any(axis=1)])
    if share_NX.shape[1] < 2:
        return NOTHING
    share_NX = share_NX / share_NX.sum(axis=1, keepdims=True)
    logarithm_NX = np.log(share_NX, out=np.zeros_like(share_NX), where=share_NX > 0)
    even_N: Values = np.abs((share_NX * logarithm_NX).sum(axis=1)) / np.log(share_NX.shape[1])
    return even_N


def convergence(thoughts_NX: Trajectory) -> Values:
    """(early - late) / (early + late), the mean changes in the first and the second half of the text, in [-1, 1].

    1 where the thoughts come to rest, 0 where they go on as they began, -1 where they begin at rest. Of an odd number
    of changes the middle one belongs to neither half. None below three thoughts, and where nothing ever changes.
    """
    change_N = changes(thoughts_NX)
    half = len(change_N) // 2
    if half == 0:
        return NOTHING
    early, late = float(change_N[:half].mean()), float(change_N[-half:].mean())
    return np.array([(early - late) / (early + late)]) if early + late > 0 else NOTHING


def oscillation(thoughts_NX: Trajectory) -> Values:
    """Minus the cosine of each change and the one before, in [-1, 1].

    1 of going to and fro between two points, -1 of going straight on; 1/2, on average, of thoughts drawn independently
    of one another, since each is then left as it was come to. Not of pairs with a change of zero.
    """
    change_NX = np.diff(thoughts_NX, axis=0)
    return -cosines(change_NX[:-1], change_NX[1:])


@final
class EffectiveDimensionality:
    """1 / sum p_i^2 of the thoughts of all texts, p_i the share of variance along the i-th principal direction.

    From 1, where all thoughts lie on a line, to the smaller of X and N - 1, where they vary equally in all directions.
    The directions themselves need not be found: with the covariance C it is trace(C)^2 / (sum of squares of C).
    Source: the participation ratio of Gao et al. 2017, "A theory of multineuronal dimensionality, dynamics and
    measurement".
    Cost: O(N X^2) once, and for each call as much for the thoughts that it leaves out.
    """

    def __init__(self, texts: Sequence[Trajectory]) -> None:
        together_NX = np.concatenate(texts).astype(np.float64)
        centre_X = together_NX.mean(axis=0) if len(together_NX) else np.zeros(together_NX.shape[1])
        # Sums around the common mean lose no digits to it.
        self._texts = [text - centre_X for text in texts]
        self._sum_X, self._moment_XX = _moments(together_NX - centre_X)
        self._count = len(together_NX)

    def __call__(self, chosen_U: npt.NDArray[np.int64]) -> float:
        """Of the texts with these indices; NaN where their thoughts do not differ."""
        left = np.setdiff1d(np.arange(len(self._texts)), chosen_U)
        left_NX = np.concatenate([self._sum_X[None, :][:0], *(self._texts[index] for index in left)])
        count = self._count - len(left_NX)
        if count < 2:
            return float("nan")
        sum_X, moment_XX = _moments(left_NX)
        mean_X = (self._sum_X - sum_X) / count
        covariance_XX = (self._moment_XX - moment_XX) / count - np.outer(mean_X, mean_X)
        trace = float(covariance_XX.trace())
        if trace <= 1e-12 * max(1.0, float(self._moment_XX.trace()) / self._count):
            return float("nan")
        return trace**2 / float((covariance_XX**2).sum())


def _moments(thoughts_NX: Trajectory) -> tuple[Values, Values]:
    return thoughts_NX.sum(axis=0), thoughts_NX.T @ thoughts_NX
