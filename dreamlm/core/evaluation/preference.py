"""How well a reward model predicts preferences that it was not trained on.

Shapes: N pairs, 2 the chosen and the rejected answer.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from dreamlm.core.errors import DataError, LossNotFinite
from dreamlm.core.evaluation.bootstrap import Interval

CONFIDENCE = 0.95
BINS = 10


@dataclass(frozen=True)
class Bin:
    """The pairs whose predicted probability lies in [low, high)."""

    low: float
    high: float
    pairs: int
    predicted: float | None
    """Mean probability that the first answer is preferred; None without pairs."""
    observed: float | None
    """Share of the pairs in which it was."""


@dataclass(frozen=True)
class PreferenceReport:
    """What held-out pairs said."""

    pairs: int
    accuracy: float
    """Share of the pairs whose chosen answer has the higher score; equal scores count half."""
    accuracy_interval: Interval
    """95 % for all looks together (Wilson, Bonferroni): one may choose the best of them, and it still holds.

    Pairs count as independent; where several share a prompt, the true interval is wider."""
    looks: int
    """How often a run measures; each look is a chance to be lucky."""
    above_chance: bool
    """Whether even the interval's lower end is above 1/2."""
    loss: float
    """Nats per pair; ln 2 is knowing nothing."""
    calibration_error: float
    """Expected calibration error over ten bins, from 0."""
    length_accuracy: float
    """The same share for a judge who prefers the longer answer, in tokens: what needs no reward model."""
    mean_margin: float
    """Score of the chosen answer less that of the rejected one."""
    mean_confidence: float
    score_mean: float
    score_deviation: float
    """Standard deviation of the scores of all answers, chosen and rejected."""
    bins: tuple[Bin, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "PreferenceReport":
        parts = {
            "accuracy_interval": Interval(**data["accuracy_interval"]),
            "bins": tuple(Bin(**b) for b in data["bins"]),
        }
        return cls(**{**data, **parts})


def preference_report(
    score_N2: npt.NDArray[np.float64],
    confidence_N: npt.NDArray[np.float64],
    chosen_is_first_N: npt.NDArray[np.bool_],
    tokens_N2: npt.NDArray[np.int64],
    looks: int = 1,
) -> PreferenceReport:
    """The report on pairs, by the scores of the chosen and the rejected answer and the confidence in the pair.

    tokens_N2: how long the two are.
    chosen_is_first_N: the order in which calibration sees the answers; if the chosen one always came first, a model
    that is always sure of the first would look calibrated.

    Raises: DataError without pairs, LossNotFinite when a score is not finite.
    """
    pairs = len(score_N2)
    if pairs == 0:
        raise DataError("there is no held-out pair to measure on", hint="raise rl.pairs.validation_fraction")
    if not (np.isfinite(score_N2).all() and np.isfinite(confidence_N).all()):
        raise LossNotFinite(
            "the reward model's scores of held-out pairs are not finite", hint="lower the learning rate"
        )
    margin_N = score_N2[:, 0] - score_N2[:, 1]
    chosen_N = (1 + confidence_N * np.tanh(margin_N / 2)) / 2
    correct = _in_order(margin_N)
    interval = wilson(correct, pairs, 1 - (1 - CONFIDENCE) / looks)
    first_N = np.where(chosen_is_first_N, chosen_N, 1 - chosen_N)
    bins = calibration_bins(first_N, chosen_is_first_N)
    return PreferenceReport(
        pairs=pairs,
        accuracy=correct / pairs,
        accuracy_interval=interval,
        looks=looks,
        above_chance=interval.low > 0.5,
        loss=float(-np.log(chosen_N).mean()),
        calibration_error=calibration_error(bins),
        length_accuracy=_in_order(tokens_N2[:, 0] - tokens_N2[:, 1]) / pairs,
        mean_margin=float(margin_N.mean()),
        mean_confidence=float(confidence_N.mean()),
        score_mean=float(score_N2.mean()),
        score_deviation=float(score_N2.std()),
        bins=bins,
    )


def _in_order(difference_N: npt.NDArray[Any]) -> float:
    """How many differences are above 0; those that are 0 count half."""
    return float((difference_N > 0).sum() + (difference_N == 0).sum() / 2)


def wilson(successes: float, trials: int, confidence: float = CONFIDENCE) -> Interval:
    """Where a probability lies after so many trials; sensible near 0 and 1, where a normal interval is not.

    Source: Wilson 1927.
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = successes / trials
    centre = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return Interval(max(0.0, centre - half), min(1.0, centre + half))


def calibration_bins(
    predicted_N: npt.NDArray[np.float64], happened_N: npt.NDArray[np.bool_], bins: int = BINS
) -> tuple[Bin, ...]:
    """Probabilities in `bins` equal parts of [0, 1], beside how often what they foretell happened; 1 is in the last."""
    place_N = np.minimum((predicted_N * bins).astype(int), bins - 1)
    table = []
    for place in range(bins):
        here_N = place_N == place
        pairs = int(here_N.sum())
        predicted = float(predicted_N[here_N].mean()) if pairs else None
        observed = float(happened_N[here_N].mean()) if pairs else None
        table.append(Bin(place / bins, (place + 1) / bins, pairs, predicted, observed))
    return tuple(table)


def calibration_error(bins: tuple[Bin, ...]) -> float:
    """Mean distance between predicted and observed, by the pairs of each bin.  Source: Naeini et al. 2015."""
    pairs = sum(one.pairs for one in bins)
    return sum(
        one.pairs / pairs * abs(one.predicted - one.observed)
        for one in bins
        if one.predicted is not None and one.observed is not None
    )
