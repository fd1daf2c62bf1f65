"""How far a statistic of a whole set of texts can be trusted, such as its share of different n-grams.

A bootstrap resample holds some texts several times over: a third of its places are repetitions of texts that are there
already. To a mean that is harmless, but repetition is just what distinct-n and self-BLEU measure, so nearly every
resample looks less diverse than the set itself, and a percentile interval lies beside the truth (in a simulation of
sets of 64 texts it never held it). A jackknife leaves texts out and never repeats one.

Shapes: N texts, U units, G groups.
"""

import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from dreamlm.core.evaluation.bootstrap import Interval

FEWEST_GROUPS = 5
"""With fewer, Student's t needs factors above 2.8, and the expansion below is not exact."""


def jackknife(
    statistic: Callable[[npt.NDArray[np.int64]], float],
    unit_N: npt.NDArray[np.int64],
    groups: int,
    confidence: float,
    seed: int,
    most: float = 1.0,
) -> Interval | None:
    """Interval of the statistic's expectation over sets of as many texts.

    None below 5 units, and where the statistic is 0 or `most`: what never varied does not show how it would.

    statistic: in [0, most], of the texts with the given indices, ascending; NaN where they have none. Calls: G + 1.
    unit_N: which unit a text belongs to, from 0; units are drawn independently, and a unit's texts leave together.

    The units are divided at random into at most `groups` groups of nearly the same size. Each is left out once, the
    pseudo-values give the variance, and Student's t with G - 1 degrees of freedom the width, on the scale of the logit
    of statistic / most, around the statistic itself: its distribution is skewed near 0 and `most`, and the interval
    cannot leave them. The usual correction of bias is left out: it would extrapolate to infinitely many texts, and what
    these statistics are there (no n-gram is new any more) is not what is asked. For the same reason only sets of
    the same number of texts compare. By the inequality of Efron & Stein the variance is rather too large than too
    small; with few units whose statistics have long tails the interval is too narrow all the same, as a bootstrap's is.

    Source: Busing, Meijer & van der Leeden 1999, "Delete-m jackknife for unequal m", eq. 6 to 8; Efron & Stein 1981.
    """
    units = int(unit_N.max(initial=-1)) + 1
    count = min(groups, units)
    if count < FEWEST_GROUPS:
        return None
    group_U = np.empty(units, dtype=np.int64)
    group_U[np.random.default_rng(seed).permutation(units)] = np.arange(units) % count
    group_N = group_U[unit_N]
    whole = statistic(np.arange(len(unit_N)))
    without_G = np.array([statistic(np.flatnonzero(group_N != group)) for group in range(count)])
    if not (0 < whole < most and np.isfinite(without_G).all()):
        return None
    ratio_G = len(unit_N) / np.bincount(group_N, minlength=count)
    pseudo_G = ratio_G * whole - (ratio_G - 1) * without_G
    variance = ((pseudo_G - (pseudo_G / ratio_G).sum()) ** 2 / (ratio_G - 1)).mean()
    half = student_quantile((1 + confidence) / 2, count - 1) * math.sqrt(variance)
    share = whole / most
    centre, step = math.log(share / (1 - share)), half / most / (share * (1 - share))
    low, high = (most / (1 + math.exp(min(max(end, -700.0), 700.0))) for end in (step - centre, -step - centre))
    return Interval(low, high)


def student_quantile(probability: float, freedom: int) -> float:
    """Quantile of Student's t, within 0.5 % up to the 97.5 % quantile of 4 degrees of freedom, and closer for more.

    Source: Abramowitz & Stegun 1964, 26.7.5.
    """
    z = NormalDist().inv_cdf(probability)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return math.fsum(term / freedom**power for power, term in enumerate(terms))
