"""Evaluation by several ranks: whatever their number, every window counts once."""

import math

import pytest
from zero_scenes import FewWindows, single

from dreamlm.core.errors import DataError
from dreamlm.core.evaluation.likelihood import likelihood_of
from dreamlm.core.evaluation.perplexity import Evaluation, evaluate
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


def test_windows_that_hold_other_targets_than_promised_are_refused() -> None:
    class Boastful(FewWindows):
        tokens = 1000

    with pytest.raises(DataError, match="promises 1,000 targets"):
        validate_together(single("fp32"), Boastful(), 2, NAMES)
