"""When a run commits a snapshot, handing that to the store, and waiting where the disk is full."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, final

from dreamlm.core.errors import CheckpointError, OutOfSpace
from dreamlm.core.training.backend.backend import Backend, Tensors
from dreamlm.core.training.failing import failing_together
from dreamlm.core.training.hooks import Hook, Saved
from dreamlm.core.training.interruption import StopRequest


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

    def roll_back(self) -> int | None:
        """Make the newest finite snapshot the current one; its step, and None on a rank that does not write.

        Raises: CheckpointError when there is none.
        """
        ...


def roll_back_together(saver: Saver, backend: Backend) -> int:
    """Make the newest finite snapshot the current one; its step, on every rank. Collective.

    Raises: CheckpointError, on every rank, when there is none.
    """
    step: int | None = None
    with failing_together(backend, (CheckpointError,)):
        step = saver.roll_back()
    return int(backend.first("" if step is None else str(step)))


@dataclass(frozen=True)
class SavePlan:
    """How often a run commits a snapshot, besides where its loop asks for one."""

    every: int | None
    """Steps, or iterations; None: only time counts."""
    seconds: float
    """Longest time between two."""
    retry_seconds: float
    """How long to wait between attempts while the disk is full."""


@final
class Saving:
    """Commits the snapshots of a run, and knows when one is due. Each call is collective."""

    def __init__(self, plan: SavePlan, saver: Saver, hooks: Hook, backend: Backend) -> None:
        self._plan, self._saver, self._hooks, self._backend = plan, saver, hooks, backend
        self._saved_at = time.monotonic()

    def is_due(self, step: int) -> bool:
        """Whether the state after so many steps is to be saved."""
        every = self._plan.every is not None and step % self._plan.every == 0
        late = self._backend.rank == 0 and time.monotonic() - self._saved_at >= self._plan.seconds
        return self._backend.any(every or late)

    def save(self, state: RunState, stop: StopRequest | None = None) -> None:
        """Commit a snapshot; while the disk is full, wait for space instead of dying.

        stop: None before the first step, when nothing is lost by dying; else it waits until somebody asks to stop.
        Raises: OutOfSpace where it does not wait.
        """
        begin, tensors = time.monotonic(), self._backend.gather()
        folder = self._commit(state, tensors, stop)
        self._hooks.on_save(Saved(state.step, str(folder), time.monotonic() - begin))
        self._backend.any(True)  # a process that ended before the first has committed would take it along
        self._saved_at = time.monotonic()

    def _commit(self, state: RunState, tensors: Tensors, stop: StopRequest | None) -> Path:
        paused = False
        while True:
            self._hooks.on_saving(state.step)
            try:
                return self._saver.save(state, tensors)
            except OutOfSpace as error:
                if stop is None or stop.number:
                    raise
                if not paused:
                    full = f"{error.what} in {error.where}"
                    self._hooks.on_notice(f"paused: {full}; free some space and training goes on")
                paused = True
                time.sleep(self._plan.retry_seconds)
