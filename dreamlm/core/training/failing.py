"""What makes one process unable to go on ends all of them, by the same error: none waits for one that is gone."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

from dreamlm.core.errors import DreamLMError
from dreamlm.core.training.backend.backend import Backend

Kinds = tuple[type[DreamLMError], ...]


@contextmanager
def failing_together(backend: Backend, kinds: Kinds) -> Iterator[None]:
    """The block is the work of each process by itself; where it fails in one, all leave by that error. Collective.

    Where it fails in several, by that of the first. An error is raised as the first of `kinds` that it is one of.
    Raises: one of `kinds`.
    """
    mine: DreamLMError | None = None
    try:
        yield
    except kinds as error:
        mine = error
    if told := backend.first(_packed(mine, kinds) if mine else ""):
        raise _unpacked(told, kinds) from mine


def _packed(error: DreamLMError, kinds: Kinds) -> str:
    kind = next(number for number, kind in enumerate(kinds) if isinstance(error, kind))
    return json.dumps([kind, error.what, error.where, error.valid, error.hint])


def _unpacked(text: str, kinds: Kinds) -> DreamLMError:
    kind, what, where, valid, hint = json.loads(text)
    error: DreamLMError = kinds[kind](what, where=where, valid=valid, hint=hint)
    return error
