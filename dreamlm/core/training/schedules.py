"""Learning-rate schedules: a factor of the base learning rate as a pure function of the step.

`steps` is the length of the run as it was first planned; past it, every schedule stays at its floor.
"""

import math
from typing import Annotated, Literal, Protocol, final

from pydantic import Field

from dreamlm.core.config import ConfigModel, choice


class Schedule(Protocol):
    def factor(self, step: int) -> float:
        """Factor in (0, 1] for the update that makes step `step` (from 0) into `step + 1`."""
        ...


def _warmup(step: int, warmup_steps: int) -> float:
    """Linear from 1/warmup_steps at step 0, so that the first update already moves the weights."""
    return min(1.0, (step + 1) / max(1, warmup_steps))


@final
class Cosine:
    """Linear warm-up, then half a cosine down to `floor`, then flat.  Source: Loshchilov & Hutter 2017."""

    class Config(ConfigModel):
        type: Literal["cosine"] = "cosine"
        warmup_steps: int = Field(100, ge=0)
        """At most a tenth of the run is spent on it."""
        floor: float = Field(0.1, ge=0.0, le=1.0)
        """Fraction of the base learning rate at the end and ever after."""

        def build(self, steps: int) -> "Cosine":
            return Cosine(min(self.warmup_steps, steps // 10), self.floor, steps)

    def __init__(self, warmup_steps: int, floor: float, steps: int) -> None:
        self.warmup_steps, self.floor, self.steps = warmup_steps, floor, steps

    def factor(self, step: int) -> float:
        if step < self.warmup_steps:
            return _warmup(step, self.warmup_steps)
        progress = min(1.0, (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps))
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * progress))


@final
class WarmupStableDecay:
    """Linear warm-up, constant, then a linear decay to `floor`, then flat.  Source: Hu et al. 2024, MiniCPM."""

    class Config(ConfigModel):
        type: Literal["wsd"] = "wsd"
        warmup_steps: int = Field(100, ge=0)
        """At most a tenth of the run is spent on it."""
        decay_fraction: float = Field(0.3, gt=0.0, le=1.0)
        """Last part of the run in which the rate falls."""
        floor: float = Field(0.05, ge=0.0, le=1.0)
        """Fraction of the base learning rate at the end and ever after."""

        def build(self, steps: int) -> "WarmupStableDecay":
            return WarmupStableDecay(min(self.warmup_steps, steps // 10), self.decay_fraction, self.floor, steps)

    def __init__(self, warmup_steps: int, decay_fraction: float, floor: float, steps: int) -> None:
        self.warmup_steps, self.floor, self.steps = warmup_steps, floor, steps
        self.decay_steps = max(1, round(steps * decay_fraction))

    def factor(self, step: int) -> float:
        if step < self.warmup_steps:
            return _warmup(step, self.warmup_steps)
        left = max(0, self.steps - step) / self.decay_steps
        return self.floor + (1 - self.floor) * min(1.0, left)


ScheduleConfig = Annotated[
    Cosine.Config | WarmupStableDecay.Config,
    Field(discriminator="type"),
    choice("cosine"),
]
