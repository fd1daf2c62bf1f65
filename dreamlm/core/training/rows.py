"""How many rows a micro-batch has: as many as suit a target share of memory.

1. after each step every rank learns what the step took of the memory of each: all decide the same
2. over the target by more than a margin, and again when read exactly: half the rows from the next step on
3. when the loss has fallen since the last look, and twice the rows would stay below the target: twice the rows
4. a size that ran out of memory is never tried again, and each time rows had to be halved the next look waits longer

The windows of a step stay the same, so do the tokens of an optimizer step. As with every change of the micro-batch,
the losses differ by rounding, and by what belongs to a micro-batch: draws of dropout, augmentation and noise times, the
rows that a contrastive loss compares, the balance of experts.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import final

import torch
from pydantic import Field, model_validator

from dreamlm.core.config import ConfigModel
from dreamlm.core.training.backend.backend import Backend
from dreamlm.core.training.gauge import Gauge, Reading, build_gauge
from dreamlm.core.training.memory import fitting, halved
from dreamlm.core.training.state import TrainingState


class RowPolicy(ABC):
    """Chooses the micro-batch of the next step."""

    @abstractmethod
    def begin(self, state: TrainingState) -> None:
        """Before forward and backward of the step behind `state`."""

    @abstractmethod
    def end(self) -> None:
        """When they are done."""

    @abstractmethod
    def choose(self, state: TrainingState, nll: float, backend: Backend) -> tuple[TrainingState, str]:
        """The state with the rows of the next step, and what changed and why, empty when nothing did. Collective."""


@final
class SameRows(RowPolicy):
    """Keeps the micro-batch; running out of memory still halves it."""

    def begin(self, state: TrainingState) -> None:
        """Nothing to read."""

    def end(self) -> None:
        """Nothing was read."""

    def choose(self, state: TrainingState, nll: float, backend: Backend) -> tuple[TrainingState, str]:
        return state, ""


@final
class RowsByMemory(RowPolicy):
    """Keeps a step's memory near a target.  Cost: one exchange of two numbers a step."""

    class Config(ConfigModel):
        """How large a micro-batch may be; the tokens of an optimizer step stay the same."""

        target: float | None = Field(None, gt=0.0, lt=1.0)
        """Share of memory that a step may take: a GPU's, or what the machine (or its container) has; default: rows are
        only halved when memory runs out."""
        margin: float = Field(0.05, gt=0.0, lt=1.0)
        """How far over the target a step may be before rows are halved."""
        patience_steps: int = Field(50, ge=1)
        """Steps between two looks whether rows can be doubled; twice as many after each time they had to be halved."""

        @model_validator(mode="after")
        def _leaves_room(self) -> "RowsByMemory.Config":
            if self.target is not None and self.target + self.margin >= 1.0:
                raise ValueError(f"target {self.target} and margin {self.margin} must make less than 1 together")
            return self

        def build(self, device: torch.device) -> RowPolicy:
            """Raises: UserMistake where the peak of a step's memory cannot be read."""
            if self.target is None:
                return SameRows()
            return RowsByMemory(self.target, self.margin, self.patience_steps, build_gauge(device))

    def __init__(self, target: float, margin: float, patience_steps: int, gauge: Gauge) -> None:
        self._target, self._margin, self._patience_steps = target, margin, patience_steps
        self._gauge = gauge
        self._reading = Reading(0.0, 0.0)
        self._said_that_one_row_is_too_much = False

    def begin(self, state: TrainingState) -> None:
        doubtful = state.sizing.over_target and state.micro_rows > 1
        self._gauge.begin(exactly=doubtful or state.step + 1 >= self._next_look(state))

    def end(self) -> None:
        self._reading = self._gauge.read()

    def choose(self, state: TrainingState, nll: float, backend: Backend) -> tuple[TrainingState, str]:
        memory = _Memory(_of_all_ranks(self._reading, backend), state.micro_rows)
        over = memory.with_rows(state.micro_rows) > self._target + self._margin
        sizing = replace(state.sizing.seen(nll), over_target=over and not self._reading.exact)
        state = replace(state, sizing=sizing)
        if over and self._reading.exact:
            return self._with_fewer(state, memory)
        if not over and state.step >= self._next_look(state):
            return self._look(state, memory, backend.world_size)
        return state, ""

    def _next_look(self, state: TrainingState) -> int:
        return state.sizing.looked_at_step + (self._patience_steps << state.sizing.times_halved)

    def _with_fewer(self, state: TrainingState, memory: "_Memory") -> tuple[TrainingState, str]:
        rows, sizing = state.micro_rows, state.sizing.looked(state.step)
        why = f"the step took {memory.with_rows(rows):.1%} of memory, the target is {self._target:.1%}"
        if rows == 1:
            said, self._said_that_one_row_is_too_much = self._said_that_one_row_is_too_much, True
            notice = "" if said else f"memory: {why}; a micro-batch of 1 row cannot be halved"
            return replace(state, sizing=sizing), notice
        sizing = replace(sizing, times_halved=sizing.times_halved + 1)
        return _changed(replace(state, sizing=sizing), halved(rows), why)

    def _look(self, state: TrainingState, memory: "_Memory", world_size: int) -> tuple[TrainingState, str]:
        sizing, rows = state.sizing, state.micro_rows
        state = replace(state, sizing=sizing.looked(state.step))
        more = fitting(2 * rows, state.global_rows // world_size)
        allowed = sizing.most_rows is None or more <= sizing.most_rows
        expected = memory.with_rows(more)
        if more > rows and allowed and sizing.improved and expected <= self._target:
            what = f"{more} rows should take {expected:.1%} of memory"
            why = f"the loss fell, and {what}, the target is {self._target:.1%}"
            return _changed(state, more, why)
        return state, ""


@dataclass(frozen=True)
class _Memory:
    """What a step took on each rank, with the rows it had."""

    readings: list[Reading]
    rows: int

    def with_rows(self, rows: int) -> float:
        """The largest share that a rank's step takes, or may be expected to."""
        return max(reading.with_rows(self.rows, rows) for reading in self.readings)


def _of_all_ranks(mine: Reading, backend: Backend) -> list[Reading]:
    """By rank, and so the same on all of them. Collective."""
    shares = [0.0] * (2 * backend.world_size)
    shares[2 * backend.rank : 2 * backend.rank + 2] = mine.base, mine.peak
    shares = backend.sum(shares)
    return [Reading(base, peak) for base, peak in zip(shares[::2], shares[1::2], strict=True)]


def _changed(state: TrainingState, rows: int, why: str) -> tuple[TrainingState, str]:
    before, accumulation = state.micro_rows, rows / state.micro_rows
    times = f"x{1 / accumulation:g}" if accumulation < 1 else f"/{accumulation:g}"
    notice = f"memory: micro-batch {before} -> {rows} rows, accumulation {times}: {why}; the step is the same"
    return replace(state, micro_rows=rows), notice
