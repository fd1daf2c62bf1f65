"""Figures of a set of texts with their intervals: means over texts, and statistics of the set as a whole.

What is resampled are units: texts that belong together, such as those of one prompt or the pieces of one document, stay
together.

Shapes: N texts, U units.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dreamlm.core.evaluation.bootstrap import Resampling, bootstrap_ratio
from dreamlm.core.evaluation.jackknife import FEWEST_GROUPS, jackknife
from dreamlm.core.evaluation.section import Figure
from dreamlm.core.rng import derive_seed


@dataclass(frozen=True)
class PerText:
    """A measure that is a sum over each text, by how many things were added up: the whole figure is their ratio."""

    name: str
    unit: str
    sums: Sequence[float]
    counts: Sequence[float]
    is_share: bool = True


@dataclass(frozen=True)
class OfTheSet:
    """A measure that belongs to a set of texts as a whole."""

    name: str
    unit: str
    statistic: Callable[[npt.NDArray[np.int64]], float]
    """Of the texts with the given indices, ascending; NaN where they have none."""
    most: float = 1.0
    """What it is at most; it is at least 0."""
    is_share: bool = True


def units_of(owners: Sequence[Hashable]) -> npt.NDArray[np.int64]:
    """Which unit of resampling each text belongs to: its owner's, or, when one owns all, each text to its own.

    Intervals are about other owners too, or else about that owner.
    """
    numbers: dict[Hashable, int] = {}
    unit_N = np.array([numbers.setdefault(owner, len(numbers)) for owner in owners], dtype=np.int64)
    return unit_N if len(numbers) > 1 else np.arange(len(owners))


def mean_figure(one: PerText, unit_N: npt.NDArray[np.int64], sure: Resampling) -> Figure:
    """The ratio of all sums and all counts, with a percentile bootstrap over units.

    Below 5 units, and for a share that is 0 or 1, there is no interval, as with the jackknife.
    """
    sum_U = np.bincount(unit_N, one.sums).astype(np.float64)
    count_U = np.bincount(unit_N, one.counts).astype(np.float64)
    sum_U, count_U = sum_U[count_U > 0], count_U[count_U > 0]
    if not len(count_U):
        return Figure(one.name, None, None, one.unit, one.is_share)
    seed = derive_seed(sure.seed, "bootstrap")
    value = float(sum_U.sum() / count_U.sum())
    telling = len(count_U) >= FEWEST_GROUPS and not (one.is_share and value in (0.0, 1.0))
    interval = bootstrap_ratio(sum_U, count_U, sure.confidence, sure.resamples, seed) if telling else None
    return Figure(one.name, value, interval, one.unit, one.is_share)


def set_figure(one: OfTheSet, unit_N: npt.NDArray[np.int64], groups: int, sure: Resampling) -> Figure:
    """The statistic of all texts, with a jackknife that leaves out at most so many groups of units."""
    value = one.statistic(np.arange(len(unit_N)))
    seed = derive_seed(sure.seed, "jackknife")
    interval = jackknife(one.statistic, unit_N, groups, sure.confidence, seed, one.most)
    return Figure(one.name, None if np.isnan(value) else value, interval, one.unit, one.is_share)
