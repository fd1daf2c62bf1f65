"""Signs that a policy collapses: said early, answered by smaller steps, and by a stop when that does not help."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from pydantic import Field

from dreamlm.core.config import ConfigModel

RATE_CUT = 0.5
"""What each back-off leaves of the learning rate."""
PULL_GROWTH = 2.0
"""By how much it strengthens the pull towards the reference."""
NOT_FINITE = "finite"
"""Name of the sign that needs no patience."""
BEYOND_CHANCE = 3.0
"""Standard errors by which two shares must differ."""


class AlarmLimits(ConfigModel):
    """When an iteration counts as a bad sign."""

    entropy_share: float = Field(0.1, ge=0.0, lt=1.0)
    """Entropy per token below this share of the first iteration's."""
    entropy_growth: float = Field(2.0, gt=1.0)
    """Entropy per token above this many times the first iteration's."""
    kl: float = Field(1.0, gt=0.0)
    """Divergence from the reference above this, in nats per token."""
    length_share: float = Field(0.2, ge=0.0, lt=1.0)
    """Answers shorter, in the mean, than this share of the first iteration's."""
    ended_share: float = Field(0.1, ge=0.0, lt=1.0)
    """A share of answers that end by themselves below this share of the first iteration's, by more than chance."""
    repetition: float = Field(0.5, gt=0.0, le=1.0)
    """More repeated 3-grams than this share, and than the first iteration had."""
    explained_variance: float = Field(-1.0, lt=1.0)
    """A critic worse than this: below 0 it is worse than none."""
    patience: int = Field(3, ge=1)
    """So many iterations in a row with the same sign raise the alarm; what is not finite raises it at once."""
    backoffs: int = Field(3, ge=0)
    """So many alarms are answered by smaller steps; the next one stops the run."""
    pause: bool = False
    """An alarm ends the call after its snapshot, so that somebody may look; the same command goes on with the smaller
    steps."""


@dataclass(frozen=True)
class Figures:
    """What the signs are read from; means of one iteration."""

    entropy: float
    kl: float
    length: float
    ended: float
    """Share of answers that end by themselves."""
    repetition: float
    explained_variance: float
    skipped: float
    """Share of the asked updates that were left out because their loss or gradient was not finite."""

    @property
    def finite(self) -> bool:
        return self.skipped == 0 and all(map(math.isfinite, (self.entropy, self.kl, self.explained_variance)))


@dataclass(frozen=True)
class Watch:
    """What is remembered between iterations; a value, so that a snapshot holds it."""

    first: Figures | None = None
    streaks: Mapping[str, int] = field(default_factory=dict)
    """Iterations in a row with each sign."""
    backoffs: int = 0

    def after(self, now: Figures, limits: AlarmLimits, answers: int) -> tuple["Watch", list[str]]:
        """The watch after an iteration of so many answers, and a sentence for each sign that has lasted: an alarm."""
        first = self.first or (now if now.finite else None)
        signs = dict(_signs(first or now, now, limits, answers))
        streaks = {name: self.streaks.get(name, 0) + 1 for name in signs}
        lasting = [signs[name] for name, count in streaks.items() if count >= limits.patience or name == NOT_FINITE]
        if lasting:
            return replace(self, first=first, streaks={}, backoffs=self.backoffs + 1), lasting
        return replace(self, first=first, streaks=streaks), []


def _signs(first: Figures, now: Figures, limits: AlarmLimits, answers: int) -> Iterator[tuple[str, str]]:
    if now.entropy < limits.entropy_share * first.entropy:
        share = f"{limits.entropy_share:.0%} of the first iteration's {first.entropy:.2f}"
        yield "entropy", f"entropy is {now.entropy:.3f} nats per token, below {share}: the policy says one thing only"
    if now.entropy > limits.entropy_growth * first.entropy:
        often = f"{limits.entropy_growth:g} times the first iteration's {first.entropy:.2f}"
        yield "entropy_growth", f"entropy is {now.entropy:.3f} nats per token, above {often}: the policy says anything"
    if now.kl > limits.kl:
        yield "kl", f"the policy is {now.kl:.2f} nats per token from the reference, beyond {limits.kl:g}"
    if now.length < limits.length_share * first.length:
        share = f"{limits.length_share:.0%} of the first iteration's {first.length:.1f}"
        yield "length", f"answers have {now.length:.1f} tokens, below {share}"
    if now.ended < limits.ended_share * first.ended and _fell(first.ended, now.ended, answers):
        yield (
            "ended",
            f"{now.ended:.0%} of the answers end, below {limits.ended_share:.0%} of {first.ended:.0%} at first",
        )
    if now.repetition > max(limits.repetition, first.repetition):
        yield "repetition", f"{now.repetition:.0%} of an answer's 3-grams repeat, more than {limits.repetition:.0%}"
    if now.explained_variance < limits.explained_variance:
        worth = f"explained variance {now.explained_variance:.2f}, below {limits.explained_variance:g}"
        yield "explained_variance", f"the critic is worse than none: {worth}"
    if not now.finite:
        figures = {"entropy": now.entropy, "divergence": now.kl, "explained variance": now.explained_variance}
        broken = [name for name, value in figures.items() if not math.isfinite(value)]
        updates = [f"the loss or gradient of {now.skipped:.0%} of the updates"] if now.skipped else []
        yield NOT_FINITE, f"not finite: {', '.join([*updates, *broken])}"


def _fell(before: float, after: float, answers: int) -> bool:
    """Whether a share of so many answers, counted twice, is smaller than chance explains.

    Source: the pooled two-proportion z-test.
    """
    pooled = (before + after) / 2
    return before - after > BEYOND_CHANCE * math.sqrt(2 * pooled * (1 - pooled) / answers)
