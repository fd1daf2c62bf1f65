"""What pulls the policy towards the reference, and what steers how hard.

    applied   what a token costs                                  where
    loss      coefficient * (log p - log p_reference)^2 / 2       beside the policy's loss, at every update
    reward    coefficient * (log p - log p_reference)             off its reward, once, before advantages are estimated

Under the policy's own samples, the first has just the gradient of the divergence at each token. The second counts the
divergence of later tokens too, with their noise; the critic must then follow the coefficient.
Source of the first: Schulman 2020, "Approximating KL divergence" (k2); of the second: Ziegler et al. 2019.
"""

import math
from typing import Literal

from pydantic import Field

from dreamlm.core.config import ConfigModel


class KlControl(ConfigModel):
    """A coefficient that grows while the policy is further from the reference than wanted, and shrinks while nearer.

    Source: Ziegler et al. 2019, section 2.2.
    """

    applied: Literal["loss", "reward"] = "loss"
    """Where the divergence is paid for."""
    initial: float = Field(0.1, gt=0.0)
    """First and least coefficient; scores are normalised to a deviation of 1 before they are compared with it.

    Without a least one, the pull of a policy that is still near would be gone when it has moved.
    """
    largest: float = Field(100.0, gt=0.0)
    """The coefficient does not grow beyond this."""
    target: float = Field(0.1, gt=0.0)
    """Wanted mean divergence from the reference, in nats per token."""
    horizon: int = Field(64, ge=1)
    """Answers after which a divergence of 1.2 times the target or more has raised the coefficient by a fifth."""
    adaptive: bool = True
    """False keeps the first coefficient."""

    def following(self, coefficient: float, divergence: float, answers: int) -> float:
        """The next coefficient, after `answers` answers whose mean divergence was so many nats per token.

        One that is no number says nothing, and raises an alarm elsewhere.
        """
        if not self.adaptive or math.isnan(divergence):
            return coefficient
        error = min(0.2, max(-0.2, divergence / self.target - 1.0))
        return self.bounded(coefficient * (1.0 + error * min(1.0, answers / self.horizon)))

    def bounded(self, coefficient: float) -> float:
        """The coefficient between the first and the largest."""
        return min(max(self.initial, coefficient), max(self.initial, self.largest))
