"""What steers the pull towards the reference."""

from pydantic import Field

from dreamlm.core.config import ConfigModel


class KlControl(ConfigModel):
    """A coefficient that grows while the policy is further from the reference than wanted, and shrinks while nearer.

    Source: Ziegler et al. 2019, section 2.2.
    """

    initial: float = Field(0.1, ge=0.0)
    """First coefficient: what one nat of divergence at a token costs."""
    target: float = Field(0.05, gt=0.0)
    """Wanted mean divergence from the reference, in nats per token."""
    horizon: int = Field(256, ge=1)
    """Answers after which a divergence of 1.2 times the target or more has raised the coefficient by a fifth."""
    adaptive: bool = True
    """False keeps the first coefficient."""

    def following(self, coefficient: float, divergence: float, answers: int) -> float:
        """The next coefficient, after `answers` answers whose mean divergence was so many nats per token."""
        if not self.adaptive:
            return coefficient
        error = min(0.2, max(-0.2, divergence / self.target - 1.0))
        return coefficient * (1.0 + error * min(1.0, answers / self.horizon))
