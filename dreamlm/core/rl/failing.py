"""Which errors of reinforcement learning end all processes together."""

from contextlib import AbstractContextManager

from dreamlm.core.errors import DataError, DreamLMError, UserMistake
from dreamlm.core.rl.rewards.mix import RewardNotFinite
from dreamlm.core.rl.rollout import LogitsNotFinite
from dreamlm.core.training import failing
from dreamlm.core.training.backend.backend import Backend

KINDS: tuple[type[DreamLMError], ...] = (LogitsNotFinite, RewardNotFinite, DataError, UserMistake)
"""Errors about the answers or the inputs of one process."""


def failing_together(backend: Backend) -> AbstractContextManager[None]:
    """What fails in one process with one of KINDS ends all by that error; see `core.training.failing`. Collective."""
    return failing.failing_together(backend, KINDS)
