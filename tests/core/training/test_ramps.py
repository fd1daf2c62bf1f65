"""Losses of modules that begin late or grow: a pure function of the progress of the run."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from small_runs import Run
from stream_of_text import TextStream

from dreamlm.core.modules.segment_summary import SegmentSummary
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.training.backend.backend import WindowBatch

Make = Callable[..., Run]
LOSS = "segment_summary.reconstruction"
SEGMENTS = {"segment_length": 4, "dropout": 0.1}
STEPS = 20
ONLY_OF_THE_LOSS = "cognition.0.decode_out.weight"
shares = st.floats(0.0, 1.0)


def summary(**values: Any) -> dict[str, Any]:
    return {**SEGMENTS, "modules": [{"type": "segment_summary", **values}]}


def losses(run: Run) -> list[tuple[int, float, float]]:
    return [(step.step, step.nll, step.objectives[LOSS]) for step in run.hook.steps]


@given(start=shares, ramp=shares, progress=shares)
def test_the_factor_is_the_share_of_the_ramp_that_is_behind(start: float, ramp: float, progress: float) -> None:
    start = min(start, 0.999, 1.0 - ramp)
    factor = SegmentSummary.Config(loss_start=start, loss_ramp=ramp).loss_factor(progress)
    naive = float(progress >= start) if ramp == 0 else min(1, max(0, (progress - start) / ramp))
    assert factor == pytest.approx(naive)
    assert SegmentSummary.Config(loss_start=start, loss_ramp=ramp).loss_factor(1.0) == pytest.approx(1.0)


def test_a_ramp_that_would_never_end_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"loss_start 0.5 and loss_ramp 0.6 must make at most 1 together"):
        SegmentSummary.Config(loss_start=0.5, loss_ramp=0.6)


def test_only_losses_that_change_have_a_factor() -> None:
    stack = {"type": "thought_stack", "thought_dims": (2, 2, 2), "loss_start": 0.2, "loss_ramp": 0.2}
    values = {"segment_length": 16, "modules": ["segment_summary", stack]}
    config = DreamLM.Config.model_validate(values)
    names = {name for name in config.loss_weights if name.startswith("thought_stack.")}
    assert config.loss_factors(0.3) == pytest.approx(dict.fromkeys(names, 0.5))
    assert DreamLM.Config().loss_factors(0.3) == {}


def test_a_step_says_what_its_losses_counted(run: Make) -> None:
    """Step n is taken when (n - 1) of the planned steps are done; the sanity checks are on."""
    ramped = run(None, summary(loss_start=0.25, loss_ramp=0.5))
    ramped.go()
    found = [step.loss_factors[LOSS] for step in ramped.hook.steps]
    expected = [min(1.0, max(0.0, ((number / STEPS) - 0.25) / 0.5)) for number in range(STEPS)]
    assert found == pytest.approx(expected)
    plain = run(None, summary())
    plain.go()
    assert all(step.loss_factors == {} for step in plain.hook.steps)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_before_its_start_a_loss_trains_nothing_and_is_reported_all_the_same(run: Make, optimizer: str) -> None:
    """Parts that only the loss reaches stay as they are, but for the decay of their weights."""
    without_decay = {"type": optimizer, "weight_decay": 0.0}
    late = run(None, summary(loss_start=0.5), optimizer=without_decay, save_interval_steps=1)
    late.go()
    weights = [tensors.model[ONLY_OF_THE_LOSS] for _, tensors in late.shelf.saved]
    moved = [not torch.equal(before, after) for before, after in pairwise(weights)]
    assert moved[:10] == [False] * 10
    assert all(moved[10:STEPS])
    assert all(step.objectives[LOSS] > 0.1 for step in late.hook.steps)


def test_a_backend_weighs_losses_as_it_was_told_last(run: Make) -> None:
    backend, stream = run(None, summary()).backend(), TextStream()
    windows, _ = stream.draw(stream.start(), 4)
    gradients = []
    for factors in ({}, {LOSS: 0.5}, {LOSS: 1.0}, {}):
        backend.weigh(factors)
        backend.forward_backward([WindowBatch(stream.read(windows), 3)])
        gradient = dict(backend.model.named_parameters())[ONLY_OF_THE_LOSS].grad
        assert gradient is not None
        gradients.append(gradient.clone())
        backend.discard()
    whole, half, full, again = gradients
    torch.testing.assert_close(half, 0.5 * whole)
    assert torch.equal(whole, full)
    assert torch.equal(whole, again)


def test_a_backend_weighs_losses_as_the_configuration_says(run: Make) -> None:
    stream, gradients = TextStream(), []
    windows, _ = stream.draw(stream.start(), 4)
    for weight in (0.2, 0.6):
        backend = run(None, summary(reconstruction_weight=weight)).backend()
        backend.forward_backward([WindowBatch(stream.read(windows), 3)])
        gradients.append(dict(backend.model.named_parameters())[ONLY_OF_THE_LOSS].grad)
    assert gradients[0].any()
    torch.testing.assert_close(gradients[1], 3 * gradients[0])


def test_without_a_ramp_nothing_changes(run: Make) -> None:
    plain, explicit = run(None, summary()), run(None, summary(loss_start=0.0, loss_ramp=0.0))
    first, second = plain.go().gather().model, explicit.go().gather().model
    assert losses(plain) == losses(explicit)
    assert all(torch.equal(first[name], tensor) for name, tensor in second.items())


def test_a_run_that_was_stopped_on_the_ramp_goes_on_exactly(run: Make) -> None:
    options = {"save_interval_steps": 1}
    ramp = summary(loss_start=0.2, loss_ramp=0.6)
    whole = run(None, ramp, **options)
    final = whole.go().gather().model
    for stopped_at in (3, 9, 17):
        resume = next(pair for pair in whole.shelf.saved if pair[0].step == stopped_at)
        again = run(None, ramp, **options)
        resumed = again.go(resume).gather().model
        assert losses(again) == losses(whole)[stopped_at:]
        assert all(torch.equal(resumed[name], tensor) for name, tensor in final.items())


def test_a_run_that_is_asked_for_more_keeps_its_full_weight(run: Make) -> None:
    ramp = summary(loss_start=0.2, loss_ramp=0.6)
    first, longer = run(None, ramp), run(None, ramp, train_tokens=4 * 16 * 2 * STEPS)
    first.go()
    longer.go(first.shelf.saved[-1])
    assert {step.loss_factors[LOSS] for step in longer.hook.steps} == {1.0}
