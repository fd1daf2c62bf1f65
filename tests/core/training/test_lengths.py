"""Shorter rows first: the same targets in the same order, cut elsewhere."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from small_runs import Run
from stream_of_text import TextStream

from dreamlm.core.training import telling
from dreamlm.core.training.backend.backend import real_targets
from dreamlm.core.training.config import TrainingConfig
from dreamlm.core.training.lengths import LengthSchedule, cut_rows, objections
from dreamlm.core.training.meters import training_flops_per_token
from dreamlm.core.types import Batch, Window

Make = Callable[..., Run]
STAGES = [{"until": 0.25, "length": 4}, {"until": 0.5, "length": 8}]


def stages(*pairs: tuple[float, int]) -> list[LengthSchedule.Stage]:
    return [LengthSchedule.Stage(until=until, length=length) for until, length in pairs]


def batch(documents: list[list[int]]) -> Batch:
    numbers = np.array(documents, dtype=np.int32)
    tokens = np.arange(numbers.size, dtype=np.int64).reshape(numbers.shape)
    windows = tuple(Window(source=row, index=row, epoch=0) for row in range(len(numbers)))
    return Batch(tokens, numbers, np.arange(len(numbers), dtype=np.int32), windows)


def targets(batch: Batch) -> list[tuple[int, int]]:
    """(source, token) of every real target."""
    real = (batch.documents[:, 1:] >= 0) & (batch.documents[:, :-1] >= 0)
    return [(int(batch.sources[row]), int(batch.tokens[row, place + 1])) for row, place in np.argwhere(real)]


def test_rows_grow_at_the_end_of_each_stage() -> None:
    schedule = LengthSchedule(stages((0.25, 4), (0.5, 8)), 16)
    assert [schedule.at(share) for share in (0.0, 0.2499, 0.25, 0.4999, 0.5, 1.0)] == [4, 4, 8, 8, 16, 16]
    assert schedule.lengths == {4, 8, 16}
    assert LengthSchedule([], 16).at(0.0) == 16


def test_pieces_share_one_token_and_number_their_documents_anew() -> None:
    cut = cut_rows(batch([[0, 0, 0, 1, 1, 1, 1, 2, 2]]), 4)
    assert cut.tokens.tolist() == [[0, 1, 2, 3, 4], [4, 5, 6, 7, 8]]
    assert cut.documents.tolist() == [[0, 0, 0, 1, 1], [0, 0, 0, 1, 1]]
    assert cut.documents.dtype == np.int32
    assert [window.index for window in cut.windows] == [0, 0]


def test_padding_stays_padding() -> None:
    cut = cut_rows(batch([[0, 1, 1, -1, -1]]), 2)
    assert cut.documents.tolist() == [[0, 1, 1], [0, -1, -1]]


def test_a_whole_window_is_left_alone() -> None:
    whole = batch([[0, 0, 1, 1, 1]])
    assert cut_rows(whole, 4) is whole


@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=8),
    padding=st.integers(0, 5),
    pieces=st.sampled_from([2, 3, 6]),
)
def test_every_target_stays_one_and_none_is_added(lengths: list[int], padding: int, pieces: int) -> None:
    documents = np.repeat(np.arange(len(lengths)), lengths)[: 13 - padding].tolist()
    whole = batch([documents + [-1] * (13 - len(documents)), [0] * 13])
    cut = cut_rows(whole, 12 // pieces)
    assert len(cut.tokens) == 2 * pieces
    assert targets(cut) == targets(whole)
    assert real_targets(cut) == real_targets(whole)
    assert (np.diff(np.where(cut.documents < 0, 99, cut.documents)) >= 0).all()


@pytest.mark.parametrize(
    ("length", "segment", "objection"),
    [
        (8, None, None),
        (5, None, "5 must divide model.seq_length 16"),
        (32, None, "32 must divide model.seq_length 16"),
        (8, 4, None),
        (4, 4, "two or more segments"),
        (2, 4, "two or more segments"),
    ],
)
def test_lengths_that_fit_no_window_or_segment_are_named(
    length: int, segment: int | None, objection: str | None
) -> None:
    found = objections(stages((0.1, 8), (0.2, length)), 16, segment, 1)
    assert [number for number, _ in found] == ([1] if objection else [])
    assert objection is None or objection in found[0][1]


def test_a_length_holds_whole_blocks() -> None:
    assert objections(stages((0.1, 8)), 16, None, 4) == []
    [(number, what)] = objections(stages((0.1, 2)), 16, None, 4)
    assert (number, what) == (0, "2 must be a multiple of the block of 4 tokens (model.diffusion)")


def test_stages_follow_one_another() -> None:
    with pytest.raises(ValidationError, match="each stage must end after the one before it"):
        TrainingConfig.model_validate({"lengths": STAGES[::-1]})


def losses(run: Run) -> list[float]:
    return [report.nll for report in run.hook.steps]


def rows_seen(run: Run) -> list[list[tuple[int, int]]]:
    """Train, and list (rows, tokens of a row) of every micro-batch, by step."""
    backend, seen = run.backend(), []
    compute = backend.forward_backward

    def forward_backward(micro_batches: Any) -> Any:
        seen.append([micro.batch.tokens.shape for micro in micro_batches])
        return compute(micro_batches)

    backend.forward_backward = forward_backward  # type: ignore[method-assign]
    run.go(backend=backend)
    return seen


def test_a_step_keeps_its_targets_and_its_cursor_while_rows_grow(run: Make) -> None:
    options = {"accumulation_steps": 2, "save_interval_steps": 1, "train_tokens": 8 * 16 * 20}
    growing, whole = run(lengths=STAGES, **options), run(**options)
    assert rows_seen(growing) == [[(16, 5)] * 2] * 5 + [[(8, 9)] * 2] * 5 + [[(4, 17)] * 2] * 10
    whole.go()
    assert [step.tokens for step in growing.hook.steps] == [step.tokens for step in whole.hook.steps]
    cursors = [[state.cursor for state, _ in one.shelf.saved] for one in (growing, whole)]
    assert cursors[0] == cursors[1]
    assert [step.length for step in growing.hook.steps] == [4] * 5 + [8] * 5 + [16] * 10
    assert [notice for notice in growing.hook.notices if "rows of" in notice] == [
        "step 1: rows of 4 tokens from here on",
        "step 6: rows of 8 tokens from here on",
        "step 11: rows of 16 tokens from here on",
    ]


def test_no_stage_changes_nothing(run: Make) -> None:
    plain, whole_windows = run(lengths=[]), run(lengths=[{"until": 1.0, "length": 16}])
    final = plain.go().gather().model
    assert all(torch.equal(tensor, final[name]) for name, tensor in whole_windows.go().gather().model.items())
    assert losses(whole_windows) == losses(plain)
    assert plain.hook.notices == whole_windows.hook.notices == []


@pytest.mark.parametrize("dropped_at", [3, 5, 7, 10, 12])
def test_a_resume_before_on_and_behind_an_edge_is_exact(run: Make, dropped_at: int) -> None:
    options = {"save_interval_steps": 1, "lengths": STAGES, "optimizer": "muon"}
    whole = run(**options)
    final = whole.go().gather().model
    resume = next(pair for pair in whole.shelf.saved if pair[0].step == dropped_at)
    again = run(**options)
    resumed = again.go(resume).gather().model
    assert losses(again) == losses(whole)[dropped_at:]
    assert all(torch.equal(resumed[name], tensor) for name, tensor in final.items())


def test_a_run_that_was_asked_for_more_does_not_go_back_to_short_rows(run: Make) -> None:
    first, longer = run(lengths=STAGES), run(lengths=STAGES, train_tokens=4 * 16 * 60)
    first.go()
    longer.go(first.shelf.saved[-1])
    assert {step.length for step in longer.hook.steps} == {16}


def test_utilisation_counts_the_attention_of_short_rows(run: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telling, "matmul_peak", lambda device, dtype: 1e9)
    growing = run(lengths=STAGES)
    model = growing.go().model
    for step in growing.hook.steps:
        assert step.mfu is not None
        assert step.length is not None
        flops = training_flops_per_token(model, step.length)
        assert step.mfu == pytest.approx(step.tokens_per_second * flops / 1e9)


def test_rows_without_attention_across_the_cut_are_the_same_numbers(run: Make) -> None:
    """Where documents end at the cut anyway, cutting changes losses by rounding only."""
    stream = TextStream(boundaries=True)  # a document begins in the middle of each window
    whole, halves = run(stream, {"dropout": 0.0}), run(stream, {"dropout": 0.0}, lengths=[{"until": 1.0, "length": 8}])
    whole.go()
    halves.go()
    assert losses(halves) == pytest.approx(losses(whole), rel=2e-3)


def test_modules_train_on_short_rows(run: Make) -> None:
    """Every parameter moves: sanity checks are on."""
    model = {"segment_length": 4, "modules": [{"type": "segment_summary"}]}
    short = run(None, model, lengths=[{"until": 1.0, "length": 8}])
    short.go()
    assert len(short.hook.steps) == 20
