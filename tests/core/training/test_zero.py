"""Two gloo processes under DeepSpeed against one process of plain PyTorch: the same numbers, the same snapshots.

The two processes are started once and leave what they saw; each test looks at a part of it.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_runs import Run
from two_ranks import run_in_two_ranks
from zero_scenes import (
    CASES,
    DREAMS,
    EXPERT_FACTORS,
    EXPERT_STAGES,
    EXPERTS,
    MAX_NORM,
    MOVED_STAGES,
    OPTIMIZERS,
    RESUMED_CASES,
    SAVED_AT,
    STEPS,
    Case,
    FewWindows,
    augmented,
    held_out_loss,
    single,
    train,
    train_staged,
)

from dreamlm.core.training.backend.backend import Tensors
from dreamlm.core.training.backend.single import SingleProcess
from dreamlm.core.training.sharing import validate_together

pytestmark = pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight:UserWarning")

TIMEOUT_SECONDS = 240
TOLERANCE = {"fp32": 1e-6, "bf16": 1e-4}
"""Relative, of losses; a step of the same samples adds up its gradient in another order."""


def tolerance(case: Case) -> float:
    return TOLERANCE["bf16" if case.optimizer == "muon" else case.precision]  # Muon orthogonalises in bf16


def each(cases: list[Case]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases, ids=str)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the two processes left their snapshots and `seen.json`; one process's snapshot was there before them."""
    folder = tmp_path_factory.mktemp("zero")
    backend = single("fp32")
    train(backend, range(SAVED_AT))
    tensors = backend.gather()
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.model.items()}, folder / "single-saved.model.safetensors"
    )
    save_file(dict(tensors.optimizer), folder / "single-saved.optimizer.safetensors")
    worker = Path(__file__).with_name("zero_worker.py")
    said = run_in_two_ranks(worker, folder, seconds=TIMEOUT_SECONDS)
    assert said == ""  # DeepSpeed logs to stdout unless told otherwise
    return folder


@pytest.fixture(scope="module")
def seen(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((folder / "seen.json").read_text())
    return loaded


def snapshot(folder: Path, name: str) -> Tensors:
    return Tensors(*(load_file(folder / f"{name}.{part}.safetensors") for part in ("model", "optimizer")))


def assert_identical(one: Tensors, other: Tensors) -> None:
    for left, right in ((one.model, other.model), (one.optimizer, other.optimizer)):
        assert list(left) == list(right)
        assert [name for name in left if not torch.equal(left[name], right[name])] == []


def assert_close(steps: list[list[float]], reference: list[list[float]], tolerance: float) -> None:
    for (nll, norm, rate), (nll_wanted, norm_wanted, rate_wanted) in zip(steps, reference, strict=True):
        assert nll == pytest.approx(nll_wanted, rel=tolerance)
        assert norm == pytest.approx(norm_wanted, rel=10 * tolerance)
        assert rate == rate_wanted


@each(CASES)
def test_two_processes_reach_the_losses_of_one(seen: dict[str, Any], case: Case) -> None:
    reference = train(single(case.precision, case.optimizer), range(STEPS))
    assert_close(seen[str(case)]["steps"], reference, tolerance(case))


@pytest.mark.parametrize("stage", EXPERT_STAGES)
def test_experts_that_one_rank_uses_and_the_other_does_not_learn_as_in_one_process(
    seen: dict[str, Any], stage: int
) -> None:
    alone = single("fp32", **EXPERTS)
    alone.weigh(EXPERT_FACTORS)
    assert_close(seen[f"z{stage}-experts"], train(alone, range(STEPS)), TOLERANCE["fp32"])


@pytest.mark.parametrize("stage", EXPERT_STAGES)
def test_two_processes_pass_the_edges_of_a_curriculum_as_one_does(
    seen: dict[str, Any], folder: Path, stage: int
) -> None:
    alone = single("fp32", **DREAMS)
    assert_close(seen[f"z{stage}-staged"], train_staged(alone), TOLERANCE["fp32"])
    reference, found = alone.gather(), snapshot(folder, f"z{stage}-staged")
    counts, expected = (
        {name: count.item() for name, count in one.optimizer.items() if name.endswith("/step")}
        for one in (found, reference)
    )
    assert counts == expected


@pytest.mark.parametrize("stage", EXPERT_STAGES)
def test_two_processes_disturb_the_rows_that_one_does(seen: dict[str, Any], stage: int) -> None:
    alone = SingleProcess(augmented(), OPTIMIZERS["adamw"], {"token": 1.0}, MAX_NORM, "fp32", compile=False)
    assert_close(seen[f"z{stage}-augmented"], train(alone, range(STEPS)), TOLERANCE["fp32"])


@each(CASES)
def test_a_snapshot_is_that_of_one_process(folder: Path, case: Case) -> None:
    backend = single(case.precision, case.optimizer)
    train(backend, range(STEPS))
    reference, found = backend.gather(), snapshot(folder, f"{case}-final")
    assert found.model.keys() == reference.model.keys()
    assert found.optimizer.keys() == reference.optimizer.keys()
    for name, tensor in (*found.model.items(), *found.optimizer.items()):
        wanted = {**reference.model, **reference.optimizer}[name]
        assert tensor.dtype == wanted.dtype == torch.float32
        torch.testing.assert_close(tensor, wanted, rtol=1e-3, atol=10 * tolerance(case), msg=name)
        if name.endswith("/step"):
            assert tensor.item() == STEPS


def test_there_is_no_optimizer_state_before_the_first_step(seen: dict[str, Any]) -> None:
    assert {seen[str(case)]["state_before_first_step"] for case in CASES} == {0}


@each(RESUMED_CASES)
def test_a_resume_repeats_losses_and_weights_bit_by_bit(seen: dict[str, Any], folder: Path, case: Case) -> None:
    assert seen[f"{case}-resumed"]["steps"] == seen[str(case)]["steps"][SAVED_AT:]
    assert_identical(snapshot(folder, f"{case}-resumed"), snapshot(folder, f"{case}-final"))


@each(RESUMED_CASES)
def test_a_gradient_that_overflows_changes_neither_weights_nor_optimizer(
    seen: dict[str, Any], folder: Path, case: Case
) -> None:
    nll, applied, norm = seen[f"{case}-resumed"]["overflow"]
    assert nll < 10
    assert not applied
    assert norm in ("inf", "nan")
    assert_identical(snapshot(folder, f"{case}-skipped"), snapshot(folder, f"{case}-saved"))


@pytest.mark.parametrize("stage", MOVED_STAGES)
def test_a_run_moves_from_one_process_to_two(seen: dict[str, Any], stage: int) -> None:
    reference = train(single("fp32"), range(STEPS))
    assert_close(seen[f"z{stage}-from-one-process"]["steps"], reference[SAVED_AT:], TOLERANCE["fp32"])


@each(RESUMED_CASES)
def test_a_run_moves_from_two_processes_to_one(seen: dict[str, Any], folder: Path, case: Case) -> None:
    backend = single(case.precision, case.optimizer)
    backend.restore(snapshot(folder, f"{case}-saved"))
    moved = train(backend, range(SAVED_AT, STEPS))
    assert_close(moved, seen[str(case)]["steps"][SAVED_AT:], tolerance(case))


@each(RESUMED_CASES)
def test_evaluation_sees_whole_weights_whatever_other_ranks_do(seen: dict[str, Any], folder: Path, case: Case) -> None:
    backend = single(case.precision, case.optimizer)
    backend.restore(snapshot(folder, f"{case}-saved"))
    assert seen[f"{case}-resumed"]["held_out"] == held_out_loss(backend)


def test_a_flag_of_any_rank_is_seen_by_all(seen: dict[str, Any]) -> None:
    assert all(seen[f"{case}-resumed"]["any"] == [True, False] for case in RESUMED_CASES)


def test_the_first_rank_that_has_something_to_say_is_heard_by_all(seen: dict[str, Any]) -> None:
    said = [seen[f"{case}-resumed"]["first"] for case in RESUMED_CASES]
    assert all(texts == ["second", "0", ""] for texts in said)


def test_what_each_rank_measures_is_decided_by_the_first(seen: dict[str, Any]) -> None:
    differs_somewhere, found_the_note = seen["together"]["agreed"]
    assert not differs_somewhere
    assert found_the_note == 1  # only the rank that waited


def test_evaluation_by_all_ranks_is_that_of_one(seen: dict[str, Any]) -> None:
    alone = validate_together(single("fp32"), FewWindows(), 2, ("a", "b"))
    found = seen["together"]["validation"]
    assert found["nll"] == pytest.approx(alone.nll, rel=1e-6)
    assert found["bits_per_byte"] == pytest.approx(alone.bits_per_byte, rel=1e-6)
    assert found["sources"] == pytest.approx(alone.sources, rel=1e-6)


def test_what_does_not_fit_is_said_before_anything_changes(seen: dict[str, Any]) -> None:
    shares, shape, moments = seen["mistakes"]
    assert "3 micro-batches of a step cannot be shared equally among 2 processes" in shares
    assert shape == ("the weight embedding.weight has shape (3,) in the snapshot; the model's has shape (61, 24)")
    assert "does not fit AdamW on this model: embedding.weight/exp_avg" in moments
    assert "train.backend=torch" in moments


def test_the_whole_loop_runs_on_divided_weights(seen: dict[str, Any], run: Callable[..., Run]) -> None:
    """Sanity checks, evaluation and snapshots at stage 3, against the loop in one process."""
    alone = run(accumulation_steps=2, per_gpu_batch_size=2, train_tokens=16 * 4 * 14)
    alone.go()
    assert seen["loop"]["losses"] == pytest.approx([report.nll for report in alone.hook.steps], rel=1e-5)
    assert seen["loop"]["tokens"] == alone.hook.steps[-1].tokens
    assert seen["loop"]["second_rank_ended_later_by"] > 0  # than the first had committed the last snapshot
    assert seen["loop"]["saved"] == [sorted(tensors.model) for _, tensors in alone.shelf.saved]


def test_ranks_with_different_memories_keep_micro_batches_of_one_size(seen: dict[str, Any]) -> None:
    sized = seen["sized"]
    assert sized["rows"] == [2, 2, 1, 1, 1, 1, 2, 2]
    assert sized["sum"] == [2 * rows for rows in sized["rows"]]
    assert sized["tokens"] == [16 * 8 * step for step in range(1, 9)]


def test_a_held_out_loss_of_one_rank_that_is_not_finite_ends_both_at_the_same_snapshot(seen: dict[str, Any]) -> None:
    first, second = seen["diverged"]
    assert first == second
    assert re.fullmatch(
        r"on held-out text the loss is not finite on \d of \d held-out windows; "
        "the run is back at its last finite snapshot, step 2",
        first,
    )
