"""Running out of memory: what is repeated, what ends the run, and what each rank says."""

import gc
import sys
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import Run

from dreamlm.core.errors import MicroBatchTooLarge, OutOfMemory, UserMistake
from dreamlm.core.training.backend.launch import MICRO_ROWS, launch
from dreamlm.core.training.backend.single import SingleProcess
from dreamlm.core.training.memory import fitting, launcher_limit, micro_batch_too_large

Make = Callable[..., Run]


def no_memory(*arguments: Any) -> Any:
    raise torch.OutOfMemoryError("CUDA out of memory")


def fail_update(run: Run, backend: SingleProcess) -> None:
    update, calls = backend.update, [0]

    def third_fails(factor: float) -> Any:
        calls[0] += 1
        return update(factor) if calls[0] < 3 else no_memory()

    backend.update = third_fails  # type: ignore[method-assign]


def fail_evaluation(run: Run, backend: SingleProcess) -> None:
    run.validate = no_memory


def fail_samples(run: Run, backend: SingleProcess) -> None:
    run.samples = no_memory


def fail_saving(run: Run, backend: SingleProcess) -> None:
    backend.gather = no_memory  # type: ignore[method-assign]


def fail_first_check(run: Run, backend: SingleProcess) -> None:
    backend.model.register_forward_pre_hook(no_memory)


@pytest.mark.parametrize(
    ("fail", "saved", "step", "what", "hint"),
    [
        (fail_first_check, [], 0, "checking the model", "model.hidden_size"),
        (fail_saving, [], 0, "gathering a snapshot", "model.hidden_size"),
        (fail_update, [0], 2, "updating the weights", "train.zero_stage=1"),
        (fail_evaluation, [0], 3, "evaluating on held-out text", "eval.rows"),
        (fail_samples, [0], 3, "writing samples", "generate.rows"),
    ],
)
def test_a_phase_without_memory_ends_the_run_on_record_and_saves_nothing(
    run: Make, fail: Callable[[Run, SingleProcess], None], saved: list[int], step: int, what: str, hint: str
) -> None:
    small = run(eval_tokens=4 * 16 * 3)
    backend = small.backend()
    fail(small, backend)
    with pytest.raises(OutOfMemory, match=f"out of memory while {what}") as caught:
        small.go(backend=backend)
    assert hint in caught.value.hint
    assert caught.value.exit_code == 1
    assert [state.step for state, _ in small.shelf.saved] == saved
    assert [(end.reason, end.step) for end in small.hook.ends] == [("failed", step)]


def test_a_backend_that_cannot_repeat_a_step_stops_with_the_settings_that_fit(
    run: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SingleProcess, "can_repeat", False)
    rank = run(per_gpu_batch_size=6, accumulation_steps=2)
    backend = rank.backend()
    backend.forward_backward = no_memory  # type: ignore[method-assign]
    with pytest.raises(MicroBatchTooLarge) as caught:
        rank.go(backend=backend)
    assert (caught.value.rows, caught.value.fewer, caught.value.exit_code) == (6, 3, 75)
    assert "--set train.per_gpu_batch_size=3 --set train.accumulation_steps=4:" in caught.value.hint
    assert rank.hook.ends == []  # the run goes on when the processes are started again


def test_settings_that_fit_make_up_the_step_that_the_run_has(run: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """It began on twice as many processes."""
    monkeypatch.setattr(SingleProcess, "can_repeat", False)
    rank = run(per_gpu_batch_size=6, accumulation_steps=2)
    backend = rank.backend()
    backend.forward_backward = no_memory  # type: ignore[method-assign]
    with pytest.raises(MicroBatchTooLarge, match="out of memory") as caught:
        rank.go((replace(rank.first_state(), global_rows=24), backend.gather()), backend)
    assert "--set train.per_gpu_batch_size=3 --set train.accumulation_steps=8:" in caught.value.hint


def test_a_failed_step_holds_no_tensor_while_it_is_tried_again(run: Make) -> None:
    """Without the garbage collector: what a circle of frames keeps alive is missing in the next try."""
    small = run(train_tokens=64)
    backend = small.backend()
    compute, held = backend.forward_backward, []

    def forward_backward(micro_batches):  # type: ignore[no-untyped-def]
        assert [reference() for reference in held] == [None] * len(held)
        activations = torch.ones(3)
        held.append(weakref.ref(activations))
        if len(micro_batches[0].batch.tokens) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return compute(micro_batches)

    backend.forward_backward = forward_backward  # type: ignore[method-assign]
    gc.disable()
    try:
        small.go(backend=backend)
    finally:
        gc.enable()
    assert len(held) == 3


@pytest.mark.parametrize(("most", "rows"), [(8, 8), (5, 4), (4, 4), (3, 2), (1, 1), (16, 8)])
def test_a_micro_batch_makes_up_the_step_of_its_process(most: int, rows: int) -> None:
    assert fitting(most, 8) == rows


def test_the_launcher_sets_a_limit_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(MICRO_ROWS, raising=False)
    assert launcher_limit() is None
    monkeypatch.setenv(MICRO_ROWS, "4")
    assert launcher_limit() == 4


@pytest.mark.parametrize("limit", ["0", "-4", "many", ""])
def test_a_limit_that_is_no_number_of_rows_is_a_mistake(monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    monkeypatch.setenv(MICRO_ROWS, limit)
    with pytest.raises(UserMistake, match="is no number of rows"):
        launcher_limit()


def test_one_row_asks_for_no_other_start() -> None:
    last = micro_batch_too_large(1, 8)
    assert isinstance(last, OutOfMemory)
    assert last.exit_code == 1


def test_a_rank_that_waited_for_one_without_memory_says_why(tmp_path: Path) -> None:
    script = """
import os, pathlib, sys, torch
from torch import distributed
from dreamlm.core.errors import OutOfMemory
from dreamlm.core.training.memory import UPDATING, within_memory
distributed.init_process_group("gloo")
try:
    with within_memory(UPDATING.failure):
        if os.environ["RANK"] == "1":
            raise torch.OutOfMemoryError("CUDA out of memory")
        distributed.all_reduce(torch.zeros(1))
except OutOfMemory as error:
    pathlib.Path(sys.argv[1], "said" + os.environ["RANK"]).write_text(error.what)
    os._exit(error.exit_code)
"""
    ended = launch([sys.executable, "-c", script, str(tmp_path)], 2)
    assert ended.exit_code == 1
    assert {(tmp_path / f"said{rank}").read_text() for rank in (0, 1)} == {"out of memory while updating the weights"}


def test_any_other_error_of_a_phase_stays_what_it_is(run: Make) -> None:
    broken = run(eval_tokens=4 * 16 * 3)

    def validate() -> Any:
        raise RuntimeError("shape mismatch")

    broken.validate = validate
    with pytest.raises(RuntimeError, match="shape mismatch"):
        broken.go()
    assert broken.hook.ends == []
