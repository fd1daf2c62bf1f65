"""Handing a snapshot to the store, and waiting where the disk is full."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from dreamlm.core.errors import OutOfSpace
from dreamlm.core.training.backend.backend import Tensors
from dreamlm.core.training.hooks import Hook, Saved


class RunState(Protocol):
    """What a snapshot needs to know of the state of a run, whatever the run does."""

    @property
    def step(self) -> int: ...

    @property
    def tokens(self) -> int: ...

    @property
    def skipped_in_a_row(self) -> int: ...

    @property
    def measured_loss(self) -> float | None:
        """The held-out loss of just these weights; None when they were not measured."""
        ...

    def to_json(self) -> dict[str, Any]: ...


class Saver(Protocol):
    """Where snapshots go. Called on every rank; only the first one writes."""

    def save(self, state: RunState, tensors: Tensors) -> Path:
        """Commit a snapshot.  Raises: OutOfSpace, with the older snapshots untouched."""
        ...

    def roll_back(self) -> int:
        """Make the newest finite snapshot the current one; its step."""
        ...


def save_patiently(
    saver: Saver,
    hooks: Hook,
    state: RunState,
    gather: Callable[[], Tensors],
    may_wait: Callable[[], bool],
    retry_seconds: float,
) -> None:
    """Commit a snapshot; while the disk is full, wait for space instead of dying, as long as that is allowed.

    Raises: OutOfSpace when it is not.
    """
    begin, paused = time.monotonic(), False
    tensors = gather()
    while True:
        try:
            folder = saver.save(state, tensors)
            break
        except OutOfSpace as error:
            if not may_wait():
                raise
            if not paused:
                hooks.on_notice(f"paused: {error.what} in {error.where}; free some space and training goes on")
            paused = True
            time.sleep(retry_seconds)
    hooks.on_save(Saved(state.step, str(folder), time.monotonic() - begin))
