"""What hooks are told of an iteration, and of answers to held-out prompts."""

import math

from dreamlm.core.evaluation.jackknife import FEWEST_GROUPS, student_quantile
from dreamlm.core.rl.collect import Collected, Summary
from dreamlm.core.rl.config import PolicyConfig
from dreamlm.core.rl.state import PolicyState
from dreamlm.core.rl.updates import Moved
from dreamlm.core.training.hooks import IterationReport

SAME = 1e-12
"""Rewards that differ by less are the same."""


def iteration_report(
    config: PolicyConfig, state: PolicyState, collected: Collected, moved: Moved, seconds: float
) -> IterationReport:
    """What an iteration of `seconds` came to; `state` is that after it."""
    found = collected.summary
    return IterationReport(
        step=state.step,
        tokens=state.tokens,
        reward=found.reward,
        reward_deviation=found.reward_deviation,
        components=found.components,
        policy_loss=moved.mean("policy_loss"),
        value_loss=moved.mean("value_loss"),
        entropy=moved.mean("entropy"),
        approx_kl=moved.mean("approx_kl"),
        clip_fraction=moved.mean("clip_fraction"),
        kl=found.kl,
        kl_coefficient=state.kl_coefficient,
        explained_variance=collected.explained_variance,
        length=found.length,
        ended=found.ended,
        repetition=found.repetition,
        mismatch=collected.disagreement.largest,
        epochs=config.passes * len(moved.updates) / moved.asked,
        gradient_norm=moved.gradient_norm,
        learning_rate=moved.learning_rate,
        rollout_tokens_per_second=found.tokens / max(collected.rollout_seconds, 1e-9),
        update_tokens_per_second=moved.tokens / max(moved.seconds, 1e-9),
        seconds=seconds,
    )


def reward_interval(found: Summary) -> tuple[float, float] | None:
    """Where the mean reward of other prompts lies, 95 %, by Student's t; None where too little tells it.

    That is below 5 answers, and where all earn the same: the next may earn something else.
    """
    if found.answers < FEWEST_GROUPS or found.reward_deviation < SAME:
        return None
    half = student_quantile(0.975, found.answers - 1) * found.reward_deviation / math.sqrt(found.answers)
    return found.reward - half, found.reward + half
