"""Running mean and deviation of what was earned so far."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dreamlm.core.rl.advantages import Total


@dataclass(frozen=True)
class RunningMoments:
    """Moments of all scores seen; a value, so that a snapshot holds it.

    Source of the combination: Chan, Golub & LeVeque 1979.
    """

    count: float = 0.0
    mean: float = 0.0
    squares: float = 0.0
    """Sum of squared distances from the mean."""

    def including(self, scores: Sequence[float], total: Total) -> "RunningMoments":
        """These moments and the scores of all processes; `total` sums over them."""
        count, summed = total([float(len(scores)), math.fsum(scores)])
        if count == 0:
            return self
        mean = summed / count
        (squares,) = total([math.fsum((score - mean) ** 2 for score in scores)])
        everything = self.count + count
        apart = mean - self.mean
        return RunningMoments(
            everything,
            self.mean + apart * count / everything,
            self.squares + squares + apart**2 * self.count * count / everything,
        )

    @property
    def deviation(self) -> float:
        """Standard deviation of the scores; 1 before two different ones were seen."""
        spread = math.sqrt(self.squares / self.count) if self.count > 0 else 0.0
        return spread if spread > 1e-8 else 1.0

    def normalised(self, score: float, limit: float) -> float:
        """The score on a scale of mean 0 and deviation 1, not beyond the limit on either side."""
        return min(limit, max(-limit, (score - self.mean) / self.deviation))
