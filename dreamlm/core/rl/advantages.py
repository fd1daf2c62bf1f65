"""How much better each token was than expected.

Shapes: N tokens of one answer.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Total = Callable[[Sequence[float]], list[float]]
"""Sums over the processes."""


def generalised_advantages(reward_N: Floats, value_N: Floats, discount: float, trace: float) -> Floats:
    """Generalised advantage estimates of an answer behind whose last token nothing more is earned.

    A_t = sum over k of (discount * trace)^k * (r_{t+k} + discount * V_{t+k+1} - V_{t+k}), where V is 0 behind the end.
    trace 1 gives the return minus the value, trace 0 one step's surprise.
    Source: Schulman et al. 2016, equation 16.
    """
    advantage_N = np.empty_like(value_N)
    following, coming = 0.0, 0.0
    for step in range(len(reward_N) - 1, -1, -1):
        surprise = reward_N[step] + discount * following - value_N[step]
        coming = surprise + discount * trace * coming
        advantage_N[step] = coming
        following = value_N[step]
    return advantage_N


def whitened(advantages: Sequence[Floats], total: Total, epsilon: float = 1e-8) -> list[Floats]:
    """Mean 0 and deviation 1 over all tokens of all answers; `total` sums over the processes.

    Only real tokens take part: there is no padding here.
    """
    mine = np.concatenate(advantages)
    count, summed = total([float(len(mine)), float(mine.sum())])
    mean = summed / count
    (squares,) = total([float(((mine - mean) ** 2).sum())])
    deviation = (squares / count) ** 0.5
    return [(advantage_N - mean) / (deviation + epsilon) for advantage_N in advantages]


def explained_variance(returns: Sequence[Floats], values: Sequence[Floats], total: Total) -> float:
    """1 - Var(return - value) / Var(return): 1 for a perfect critic, 0 for a constant one and for equal returns."""
    everything, missed = np.concatenate(returns), np.concatenate(returns) - np.concatenate(values)
    count, return_sum, missed_sum = total([float(len(everything)), float(everything.sum()), float(missed.sum())])
    spread, wrong = total(
        [
            float(((everything - return_sum / count) ** 2).sum()),
            float(((missed - missed_sum / count) ** 2).sum()),
        ]
    )
    return 1.0 - wrong / spread if spread > 0 else 0.0
