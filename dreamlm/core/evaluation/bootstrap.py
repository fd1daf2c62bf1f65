"""How far a mean over held-out windows can be trusted.

Shapes: N windows, R resamples of one block.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_BLOCK_DRAWS = 1 << 22
"""Random indices held at once: about 32 MB."""


@dataclass(frozen=True)
class Interval:
    """Where a figure lies with the stated confidence."""

    low: float
    high: float


@dataclass(frozen=True)
class Resampling:
    """How intervals are made."""

    confidence: float
    """Within (0, 1)."""
    resamples: int
    """Of a bootstrap."""
    seed: int


def bootstrap_ratio(
    sum_N: npt.NDArray[np.float64],
    count_N: npt.NDArray[np.float64],
    confidence: float,
    resamples: int,
    seed: int,
) -> Interval | None:
    """Percentile interval of sum(sum_N) / sum(count_N) when windows are drawn with replacement; None below 2 windows.

    Windows, not tokens: the tokens of a window are predicted from one another's context, so their losses are not
    independent, and an interval over tokens would be several times too narrow. Documents are better still where they
    are longer than a window (neighbouring windows of one document are alike too), and are resampled where they are
    measured one by one; a window of packed text holds parts of many, so there the interval is a lower bound of the
    uncertainty over new documents.

    Source: Efron & Tibshirani 1993, chapter 13.  Cost: O(resamples * N) time, bounded memory.
    """
    windows = len(sum_N)
    if windows < 2:
        return None
    generator = np.random.default_rng(seed)
    block = max(1, _BLOCK_DRAWS // windows)
    ratios = []
    for begin in range(0, resamples, block):
        drawn_RN = generator.integers(windows, size=(min(block, resamples - begin), windows))
        ratios.append(sum_N[drawn_RN].sum(axis=1) / count_N[drawn_RN].sum(axis=1))
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(ratios), [tail, 1 - tail])
    return Interval(float(low), float(high))
