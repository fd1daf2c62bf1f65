"""The micro-batch follows the memory that it takes, as hand-made gauges tell it; the step stays what it is."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from small_runs import Run

from dreamlm.core.errors import CheckpointError
from dreamlm.core.training.backend.single import SingleProcess
from dreamlm.core.training.config import TrainingConfig
from dreamlm.core.training.gauge import Reading
from dreamlm.core.training.rows import RowsByMemory, SameRows
from dreamlm.core.training.state import Sizing, TrainingState
from dreamlm.core.types import Cursor

Make = Callable[..., Run]
NO_DROPOUT = {"dropout": 0.0}


class HandMade:
    """A gauge, and the memory that it reads: `base` and `each` row's share; more rows than `fits` run out of it."""

    def __init__(self, each: float, base: float = 0.1, fits: int = 1000) -> None:
        self.each, self.base, self.fits, self.rows = each, base, fits, 0

    def begin(self, exactly: bool) -> None:
        self.rows = 0

    def read(self) -> Reading:
        return Reading(self.base, self.base + self.each * self.rows)

    def watch(self, backend: SingleProcess) -> SingleProcess:
        compute = backend.forward_backward

        def forward_backward(micro_batches: Any) -> Any:
            self.rows = len(micro_batches[0].batch.tokens)
            if self.rows > self.fits:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return compute(micro_batches)

        backend.forward_backward = forward_backward  # type: ignore[method-assign]
        return backend


def go(run: Run, gauge: HandMade, target: float = 0.5, patience: int = 3, resume: Any = None) -> SingleProcess:
    run.rows = RowsByMemory(target, 0.1, patience, gauge)
    return run.go(resume, backend=gauge.watch(run.backend()))


def rows(run: Run) -> list[int | None]:
    return [step.micro_rows for step in run.hook.steps]


def losses(run: Run) -> list[float]:
    return [step.nll for step in run.hook.steps]


def test_over_the_target_rows_are_halved_until_a_step_fits(run: Make) -> None:
    cramped = run(per_gpu_batch_size=8, train_tokens=8 * 16 * 5)
    go(cramped, HandMade(each=0.1))
    assert rows(cramped) == [8, 4, 4, 4, 4]
    assert cramped.hook.notices == [
        "memory: micro-batch 8 -> 4 rows, accumulation x2: "
        "the step took 90.0% of memory, the target is 50.0%; the step is the same"
    ]


def test_rows_double_while_the_loss_falls_and_the_next_size_stays_below_the_target(run: Make) -> None:
    roomy = run(per_gpu_batch_size=1, accumulation_steps=8, train_tokens=8 * 16 * 12)
    go(roomy, HandMade(each=0.08))
    assert rows(roomy) == [1] * 3 + [2] * 3 + [4] * 6  # 8 rows would take 0.74
    assert roomy.hook.notices[1] == (
        "memory: micro-batch 2 -> 4 rows, accumulation /2: "
        "the loss fell, and 4 rows should take 42.0% of memory, the target is 50.0%; the step is the same"
    )


def test_rows_grow_up_to_the_whole_step_of_a_process_through_its_divisors(run: Make) -> None:
    roomy = run(per_gpu_batch_size=4, accumulation_steps=3, train_tokens=12 * 16 * 12)
    go(roomy, HandMade(each=0.001))
    assert rows(roomy) == [4] * 3 + [6] * 3 + [12] * 6


def test_nothing_grows_while_the_loss_does_not_fall(run: Make) -> None:
    stuck = run(accumulation_steps=2, optimizer={"type": "adamw", "learning_rate": 1e-12}, sanity_checks=False)
    falling = iter(range(1000))
    gauge = HandMade(each=0.001)
    stuck.rows = RowsByMemory(0.5, 0.1, 3, gauge)
    backend = gauge.watch(stuck.backend())
    compute = backend.forward_backward
    backend.forward_backward = lambda batches: replace(compute(batches), nll=3.0 + next(falling))  # type: ignore[method-assign]
    stuck.go(backend=backend)
    assert set(rows(stuck)) == {4}


def test_a_reading_that_may_be_too_large_is_repeated_exactly_before_rows_are_halved(run: Make) -> None:
    """The pages of the CPU: what a larger micro-batch once took is kept, until it is given back."""

    class Keeping(HandMade):
        kept, exactly = 0.9, False
        asked: tuple[int, ...] = ()

        def begin(self, exactly: bool) -> None:
            self.exactly = exactly
            if exactly:
                self.asked += (self.step,)
                self.kept = 0.0

        step = 0

        def read(self) -> Reading:
            self.step += 1
            needed = super().read().peak
            self.kept = max(self.kept, needed)
            return Reading(self.base, self.kept, self.exactly)

    options = {"per_gpu_batch_size": 8, "train_tokens": 8 * 16 * 14, "save_interval_steps": 1}
    whole, gauge = run(**options), Keeping(each=0.1)
    go(whole, gauge, patience=5)
    # Before the first step 0.9 were kept; 8 rows do take 0.9; then those are kept, and 4 rows take 0.5.
    assert rows(whole) == [8] * 2 + [4] * 12
    assert gauge.asked == (1, 3, 11)  # and once for the look that comes after 2 * 5 steps
    again = run(**options)
    go(again, Keeping(each=0.1), patience=5, resume=whole.shelf.saved[1])
    assert rows(again) == rows(whole)[1:]


@pytest.mark.parametrize("each", [0.09, 0.11, 0.12])
def test_between_the_target_and_its_margin_nothing_changes(run: Make, each: float) -> None:
    steady = run(accumulation_steps=2)
    go(steady, HandMade(each=each))  # 4 rows take 0.46, 0.54 or 0.58; 8 would take more than 0.5
    assert set(rows(steady)) == {4}


def test_each_time_rows_were_halved_the_next_look_waits_longer(run: Make) -> None:
    """A memory that looks small with few rows and is not: rows must not flap."""

    class Deceptive(HandMade):
        def read(self) -> Reading:
            return Reading(0.1, 0.9 if self.rows > 2 else 0.2)

    flapping = run(per_gpu_batch_size=2, accumulation_steps=2, train_tokens=4 * 16 * 60)
    go(flapping, Deceptive(each=0.0))
    seen = rows(flapping)
    assert [step for step, size in enumerate(seen, start=1) if size == 4] == [4, 11, 24, 49]
    assert len(flapping.hook.notices) == 8


def test_a_size_that_ran_out_of_memory_is_not_tried_again(run: Make) -> None:
    tight = run(per_gpu_batch_size=2, accumulation_steps=4, train_tokens=8 * 16 * 30, save_interval_steps=1)
    go(tight, HandMade(each=0.01, fits=4))
    assert rows(tight) == [2] * 3 + [4] * 27  # 8 rows were tried after the 6th step
    assert [notice for notice in tight.hook.notices if "out of memory" in notice] == [
        "out of memory: micro-batch 8 -> 4 rows, accumulation x2; the step is the same"
    ]
    again = run(per_gpu_batch_size=2, accumulation_steps=4, train_tokens=8 * 16 * 30)
    go(again, HandMade(each=0.01), resume=tight.shelf.saved[10])  # the memory is there now, the run remembers
    assert set(rows(again)) == {4}


def test_one_row_that_is_too_much_is_said_once(run: Make) -> None:
    full = run(per_gpu_batch_size=2, train_tokens=2 * 16 * 6)
    go(full, HandMade(each=0.1, base=0.8))
    assert rows(full) == [2] + [1] * 5
    assert full.hook.notices[1:] == [
        "memory: the step took 90.0% of memory, the target is 50.0%; a micro-batch of 1 row cannot be halved"
    ]


def test_one_row_that_seems_too_much_is_read_exactly_only_when_a_look_is_due(run: Make) -> None:
    class Full(HandMade):
        asked: tuple[bool, ...] = ()

        def begin(self, exactly: bool) -> None:
            self.asked += (exactly,)

        def read(self) -> Reading:
            return Reading(0.8, 0.9, self.asked[-1])

    full, gauge = run(per_gpu_batch_size=1, train_tokens=16 * 7), Full(each=0.0)
    go(full, gauge, patience=3)
    assert gauge.asked == (False, False, True, False, False, True, False)


def test_the_tokens_of_a_step_and_its_losses_stay_the_same(run: Make) -> None:
    options = {"per_gpu_batch_size": 2, "accumulation_steps": 4, "train_tokens": 8 * 16 * 20}
    changing, same = run(None, NO_DROPOUT, **options), run(None, NO_DROPOUT, **options)

    class Wandering(HandMade):
        def read(self) -> Reading:
            self.steps = getattr(self, "steps", 0) + 1
            return Reading(0.1, 0.9 if self.steps in (8, 9, 17) else 0.15)

    go(changing, Wandering(each=0.0))
    same.go()
    assert rows(changing) == [2] * 3 + [4] * 3 + [8] * 2 + [4] + [2] * 8 + [1] * 3
    assert [step.tokens for step in changing.hook.steps] == [step.tokens for step in same.hook.steps]
    assert losses(changing) == pytest.approx(losses(same), rel=1e-4)


@pytest.mark.parametrize("dropped_at", range(1, 14, 2))
def test_a_resume_takes_the_same_decisions_and_is_exact(run: Make, dropped_at: int) -> None:
    options = {"per_gpu_batch_size": 2, "accumulation_steps": 4, "train_tokens": 8 * 16 * 15, "save_interval_steps": 1}
    whole = run(**options)  # with dropout
    final = go(whole, HandMade(each=0.045, fits=4)).gather().model
    assert set(rows(whole)) == {2, 4}
    again = run(**options)
    resumed = go(again, HandMade(each=0.045, fits=4), resume=whole.shelf.saved[dropped_at]).gather().model
    assert (rows(again), losses(again)) == (rows(whole)[dropped_at:], losses(whole)[dropped_at:])
    assert all(torch.equal(resumed[name], tensor) for name, tensor in final.items())


class Rank:
    """One of two ranks in one process: adds what the other reads."""

    world_size = 2

    def __init__(self, rank: int, other: Reading) -> None:
        self.rank, self._other = rank, other

    def sum(self, values: list[float]) -> list[float]:
        place = 2 * (1 - self.rank)
        assert values[place : place + 2] == [0.0, 0.0]
        return [*values[:place], self._other.base, self._other.peak, *values[place + 2 :]]


@pytest.mark.parametrize(
    ("readings", "expected"),
    [
        ((Reading(0.1, 0.2), Reading(0.1, 0.9)), 2),
        ((Reading(0.1, 0.2), Reading(0.1, 0.4)), 4),
        ((Reading(0.1, 0.2), Reading(0.1, 0.25)), 8),
        ((Reading(0.3, 0.4), Reading(0.1, 0.25)), 8),
    ],
)
def test_ranks_with_different_memories_decide_the_same(readings: tuple[Reading, Reading], expected: int) -> None:
    state = TrainingState(0, 10, 16, 4, "fp32", "", Cursor(), step=50, sizing=Sizing(loss=1.0, loss_then=2.0))
    decided = []
    for rank in (0, 1):
        gauge = HandMade(0.0)
        gauge.read = lambda mine=readings[rank]: mine  # type: ignore[method-assign]
        policy = RowsByMemory(0.5, 0.05, 50, gauge)
        policy.begin(state)
        policy.end()
        decided.append(policy.choose(state, 0.9, Rank(rank, readings[1 - rank])))  # type: ignore[arg-type]
    assert decided[0] == decided[1]
    assert decided[0][0].micro_rows == expected


def test_without_a_target_no_memory_is_read() -> None:
    assert isinstance(TrainingConfig().memory.build(torch.device("cpu")), SameRows)


def test_a_target_leaves_room_for_its_margin() -> None:
    with pytest.raises(ValidationError, match="must make less than 1 together"):
        RowsByMemory.Config(target=0.97)


def test_a_loss_that_is_not_finite_is_no_loss_to_compare_with() -> None:
    seen = Sizing().seen(3.0).seen(float("nan"))
    assert (seen.loss, seen.improved) == (3.0, False)
    assert seen.seen(2.0).improved


def test_a_state_from_before_there_were_sizes_is_read_and_a_newer_one_refused() -> None:
    state = TrainingState(0, 10, 16, 4, "fp32", "", Cursor(), sizing=Sizing(most_rows=4))
    written = state.to_json()
    assert TrainingState.from_json(written) == state
    older = {**written, "schema": 1}
    del older["sizing"]
    assert TrainingState.from_json(older) == replace(state, sizing=Sizing())
    with pytest.raises(CheckpointError, match="has schema 3, this version reads 1 and 2"):
        TrainingState.from_json({**written, "schema": 3})
