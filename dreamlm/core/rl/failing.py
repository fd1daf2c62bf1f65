"""What makes one process unable to go on ends all of them, by the same error: none waits for one that is gone."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

from dreamlm.core.errors import DataError, DreamLMError, UserMistake
from dreamlm.core.rl.rewards.mix import RewardNotFinite
from dreamlm.core.rl.rollout import LogitsNotFinite
from dreamlm.core.training.backend.backend import Backend

KINDS: tuple[type[DreamLMError], ...] = (LogitsNotFinite, RewardNotFinite, DataError, UserMistake)
"""Errors about the answers or the inputs of one process."""


@contextmanager
def failing_together(backend: Backend) -> Iterator[None]:
    """The block is the work of each process by itself; where it fails in one, all leave by that error. Collective.

    Where it fails in several, by that of the first.
    Raises: one of KINDS.
    """
    mine: DreamLMError | None = None
    try:
        yield
    except KINDS as error:
        mine = error
    if told := backend.first(_packed(mine) if mine else ""):
        raise _unpacked(told) from mine


def _packed(error: DreamLMError) -> str:
    kind = next(number for number, kind in enumerate(KINDS) if isinstance(error, kind))
    return json.dumps([kind, error.what, error.where, error.valid, error.hint])


def _unpacked(text: str) -> DreamLMError:
    kind, what, where, valid, hint = json.loads(text)
    error: DreamLMError = KINDS[kind](what, where=where, valid=valid, hint=hint)
    return error
