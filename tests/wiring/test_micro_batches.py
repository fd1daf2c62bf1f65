"""What a run folder remembers of its micro-batches and rows, and what may change between two visits."""

import json
import re
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from workplace import Workplace

from dreamlm.core.errors import PresetError, ResumeMismatch
from dreamlm.core.training import rows
from dreamlm.core.training.backend.launch import MICRO_ROWS
from dreamlm.core.training.config import TrainingConfig
from dreamlm.core.training.gauge import Reading
from dreamlm.wiring import training
from dreamlm.wiring.resume import check_step

Trained = Callable[..., Path]
SMALL = ("train.per_gpu_batch_size=2", "train.accumulation_steps=4")
BY_MEMORY = (*SMALL, "train.memory.target=0.5", "train.memory.patience_steps=2")
LENGTHS = 'train.lengths=[{"until": 0.5, "length": 8}]'
MORE = "train.train_tokens=2048"


class Roomy:
    """A gauge of a memory that is never full."""

    def begin(self, exactly: bool) -> None: ...

    def read(self) -> Reading:
        return Reading(0.1, 0.11)


@pytest.fixture(autouse=True)
def roomy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "build_gauge", lambda device: Roomy())


def state_of(run: Path) -> dict[str, Any]:
    state: dict[str, Any] = json.loads((run / "checkpoints" / "lm_current" / "state.json").read_text())
    return state


def steps_of(run: Path) -> list[dict[str, Any]]:
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [event for event in events if event["event"] == "step"]


def test_a_micro_batch_that_grew_stays_so_when_the_run_goes_on(place: Workplace, trained: Trained) -> None:
    run = trained(*BY_MEMORY)
    assert [step["micro_rows"] for step in steps_of(run)] == [2, 2, 4, 4, 8, 8]
    again = place.train(run, *BY_MEMORY, MORE)
    assert [step["micro_rows"] for step in steps_of(run)[6:]] == [8, 8]
    assert not any("memory:" in notice for notice in again.notices)


def test_without_a_target_the_run_goes_back_to_what_was_asked_for(place: Workplace, trained: Trained) -> None:
    run = trained(*BY_MEMORY)
    place.train(run, *SMALL, MORE)
    assert [step["micro_rows"] for step in steps_of(run)[6:]] == [2, 2]


def test_losses_are_those_of_fixed_micro_batches(place: Workplace, trained: Trained) -> None:
    run, fixed = trained(*BY_MEMORY), place.folder / "fixed"
    place.train(fixed, *SMALL)
    assert [s["nll"] for s in steps_of(run)] == pytest.approx([s["nll"] for s in steps_of(fixed)], rel=1e-5)
    assert [s["tokens"] for s in steps_of(run)] == [s["tokens"] for s in steps_of(fixed)]


def test_what_the_launcher_saw_run_out_of_memory_is_not_tried_again(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = place.folder / "run"
    with monkeypatch.context() as launched:
        launched.setenv(MICRO_ROWS, "3")
        place.train(run, *BY_MEMORY, "train.train_tokens=1024")
    assert (state_of(run)["micro_rows"], state_of(run)["sizing"]["most_rows"]) == (2, 3)
    place.train(run, *BY_MEMORY, MORE)
    assert {step["micro_rows"] for step in steps_of(run)} == {2}


def test_another_size_that_is_asked_for_begins_anew(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    run = place.folder / "run"
    with monkeypatch.context() as launched:
        launched.setenv(MICRO_ROWS, "1")
        place.train(run, *SMALL)
    assert state_of(run)["micro_rows"] == 1
    place.train(run, "train.per_gpu_batch_size=4", "train.accumulation_steps=2", MORE)
    assert (state_of(run)["micro_rows"], state_of(run)["sizing"]["most_rows"]) == (4, None)


def of_step(rows: int, accumulation_steps: int) -> TrainingConfig:
    return TrainingConfig(per_gpu_batch_size=rows, accumulation_steps=accumulation_steps)


@pytest.mark.parametrize(
    ("before", "now", "processes"),
    [
        ((8, 4), (8, 4), 1),
        ((8, 4), (16, 2), 1),
        ((8, 4), (8, 1), 4),
        ((8, 4), (2, 4), 4),
        ((8, 4), (8, 4), 4),  # its own settings
        ((8, 1), (8, 4), 1),  # of a run that went on in four processes meanwhile
        ((8, 1), (8, 1), 2),
    ],
)
def test_a_step_may_be_made_up_otherwise(before: tuple[int, int], now: tuple[int, int], processes: int) -> None:
    check_step(of_step(*before).model_dump(), of_step(*now), 32, processes)


@pytest.mark.parametrize(
    ("now", "processes", "makes"),
    [((8, 2), 1, "8 * accumulation_steps 2 * 1 process make 16"), ((8, 1), 8, "1 * 8 processes make 64")],
)
def test_another_step_is_refused_with_settings_that_make_up_the_runs(
    now: tuple[int, int], processes: int, makes: str
) -> None:
    with pytest.raises(ResumeMismatch, match=re.escape(makes)) as caught:
        check_step(of_step(8, 4).model_dump(), of_step(*now), 32, processes)
    rows, accumulation_steps = map(int, re.findall(r"--set train\.\w+=(\d+)", caught.value.hint))
    assert rows * accumulation_steps * processes == 32
    check_step(of_step(8, 4).model_dump(), of_step(rows, accumulation_steps), 32, processes)


def test_processes_that_cannot_share_a_step_are_told_how_many_can() -> None:
    with pytest.raises(ResumeMismatch, match="32 windows, which 3 processes cannot share") as caught:
        check_step(of_step(8, 4).model_dump(), of_step(8, 4), 32, 3)
    assert caught.value.valid == ("1", "2", "4", "8", "16", "32")


def test_another_step_is_refused_before_anything_is_made_ready(
    place: Workplace, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained()
    monkeypatch.setattr(training, "gathered", lambda place, device: nullcontext())
    monkeypatch.setattr(training, "prepare_corpus", lambda *given: pytest.fail("too late"))
    monkeypatch.setattr(training.Place, "from_environment", lambda: training.Place(0, 0, 2))
    with pytest.raises(ResumeMismatch, match="2 processes make 16") as caught:
        place.train(run, MORE)
    assert "--set train.per_gpu_batch_size=4 --set train.accumulation_steps=1 " in caught.value.hint


def test_rows_grow_with_the_run_and_never_shrink_again(place: Workplace, trained: Trained) -> None:
    run = trained(LENGTHS)
    assert [step["length"] for step in steps_of(run)] == [8, 8, 8, 32, 32, 32]
    assert [step["tokens"] for step in steps_of(run)] == [256 * number for number in range(1, 7)]
    place.train(run, LENGTHS, MORE)
    assert {step["length"] for step in steps_of(run)[6:]} == {32}


def test_other_lengths_change_how_training_goes_on(place: Workplace, trained: Trained) -> None:
    run = trained()
    with pytest.raises(ResumeMismatch, match=r"train\.lengths") as caught:
        place.train(run, LENGTHS, MORE)
    assert caught.value.hint == "--allow-changes continues with the new values"
    assert place.train(run, LENGTHS, MORE, allow_changes=True).ends[0].step == 8


def test_lengths_that_do_not_divide_a_window_are_named_with_their_stage(place: Workplace) -> None:
    with pytest.raises(PresetError, match=r"train\.lengths.1.*length: 12 must divide model\.seq_length 32"):
        place.preset('train.lengths=[{"until": 0.1, "length": 8}, {"until": 0.2, "length": 12}]')


def test_a_row_of_one_segment_is_no_row_for_modules(place: Workplace) -> None:
    modules = ('model.modules=[{"type": "segment_summary"}]', "model.segment_length=8")
    place.preset(*modules, 'train.lengths=[{"until": 0.1, "length": 16}]')
    with pytest.raises(PresetError, match=r"two or more segments of model\.segment_length 8"):
        place.preset(*modules, 'train.lengths=[{"until": 0.1, "length": 8}]')
