"""Evaluation by several ranks: whatever their number, every window counts once; and how they end together."""

import math
from pathlib import Path

import pytest
import torch
from zero_scenes import FewWindows, single

from dreamlm.core.errors import CheckpointError, DataError, LossNotFinite
from dreamlm.core.evaluation.likelihood import likelihood_of
from dreamlm.core.evaluation.perplexity import Evaluation, evaluate
from dreamlm.core.training.backend.backend import Tensors
from dreamlm.core.training.saving import RunState, roll_back_together
from dreamlm.core.training.sharing import loss_sums, validate_together

NAMES = ("a", "b")


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_the_parts_of_all_ranks_make_up_the_whole(world_size: int) -> None:
    model = single("fp32").model
    parts = [loss_sums(model, FewWindows(), 2, 2, rank, world_size) for rank in range(world_size)]
    assert [sum(values) for values in zip(*parts, strict=True)] == pytest.approx(
        loss_sums(model, FewWindows(), 2, 2, 0, 1), rel=1e-12
    )


def test_the_figures_are_those_of_an_evaluation() -> None:
    backend = single("fp32")
    found, report = validate_together(backend, FewWindows(), 2, NAMES), evaluate(backend.model, FewWindows(), 2, NAMES)
    assert found.nll == pytest.approx(report.cross_entropy, rel=1e-12)
    assert found.bits_per_byte == pytest.approx(report.bits_per_byte, rel=1e-12)
    assert found.sources == pytest.approx({source.source: source.cross_entropy for source in report.sources})


@pytest.mark.parametrize(("block", "is_bound"), [(4, True), (1, False)])
def test_a_bound_is_known_as_one_with_the_error_of_an_evaluation(block: int, is_bound: bool) -> None:
    backend = single("fp32", diffusion={"block_size": block})
    likelihood = likelihood_of(backend.model, filler_id=1)
    found = validate_together(backend, FewWindows(), 2, NAMES, likelihood)
    report = Evaluation.Config(rows=2).build().run(backend.model, FewWindows(), likelihood=likelihood)
    assert found.is_bound is report.is_bound is is_bound
    assert found.monte_carlo_error == pytest.approx(report.monte_carlo_error, rel=1e-12)
    assert (found.monte_carlo_error > 0) is is_bound
    parts = [loss_sums(backend.model, FewWindows(), 2, 2, rank, 2, likelihood) for rank in range(2)]
    assert [sum(values) for values in zip(*parts, strict=True)] == pytest.approx(
        loss_sums(backend.model, FewWindows(), 2, 2, 0, 1, likelihood), rel=1e-12
    )


def test_a_source_without_windows_has_no_figure() -> None:
    found = validate_together(single("fp32"), FewWindows(), 2, (*NAMES, "nothing"))
    assert list(found.sources) == ["a", "b"]
    assert math.isfinite(found.nll)


def test_a_loss_that_is_not_finite_on_another_rank_ends_this_one_by_the_same_error() -> None:
    broken, sound, told = single("fp32"), single("fp32"), list[str]()
    torch.nn.init.constant_(broken.model.norm.weight, math.nan)
    broken.first = lambda text: told.append(text) or text  # type: ignore[func-returns-value, method-assign]
    with pytest.raises(LossNotFinite) as there:
        validate_together(broken, FewWindows(), 2, NAMES)
    sound.first = lambda text: text or told[0]  # type: ignore[method-assign]
    with pytest.raises(LossNotFinite) as here:
        validate_together(sound, FewWindows(), 2, NAMES)
    assert str(here.value) == str(there.value)


def test_windows_that_hold_other_targets_than_promised_are_refused() -> None:
    class Boastful(FewWindows):
        tokens = 1000

    with pytest.raises(DataError, match="promises 1,000 targets"):
        validate_together(single("fp32"), Boastful(), 2, NAMES)


class Elsewhere:
    """The saver of a rank that does not write."""

    def save(self, state: RunState, tensors: Tensors) -> Path:
        return Path()

    def roll_back(self) -> None: ...


def test_a_rank_that_does_not_write_tells_the_step_that_the_first_went_back_to() -> None:
    backend, told = single("fp32"), iter(["", "4"])  # no error, and then the step
    backend.first = lambda text: text or next(told)  # type: ignore[method-assign]
    assert roll_back_together(Elsewhere(), backend) == 4


def test_a_run_without_a_finite_snapshot_says_so_on_every_rank() -> None:
    class Empty(Elsewhere):
        def roll_back(self) -> None:
            raise CheckpointError("there is no finite snapshot to go back to", where="runs/x")

    first, second, told = single("fp32"), single("fp32"), list[str]()
    first.first = lambda text: told.append(text) or text  # type: ignore[func-returns-value, method-assign]
    second.first = lambda text: text or told[0]  # type: ignore[method-assign]
    for saver, backend in ((Empty(), first), (Elsewhere(), second)):
        with pytest.raises(CheckpointError, match="no finite snapshot"):
            roll_back_together(saver, backend)
