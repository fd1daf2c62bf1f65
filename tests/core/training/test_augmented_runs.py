"""Augmentation within a run: exact, off unless asked for, and never in the way of the run's own checks."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from small_runs import Run

from dreamlm.core.training.backend.single import SingleProcess

Make = Callable[..., Run]
MASKED = {"mask_vector": True}
THOUGHTS = {
    "segment_length": 4,
    "modules": [{"type": "thought_stack", "thought_dims": (2, 2, 2), "stack_size": 2}],
    **MASKED,
}
HALF = {"augmentation": {"probability": 0.5}, "sanity_checks": False}
"""Without the check that weights move: queries of so small thoughts move less than fp32 shows in ten steps."""


def losses(run: Run) -> list[tuple[int, float]]:
    return [(step.step, step.nll) for step in run.hook.steps]


@pytest.mark.parametrize("model", [MASKED, THOUGHTS], ids=["plain", "thoughts"])
def test_a_run_that_was_stopped_goes_on_with_the_same_disturbances(run: Make, model: dict[str, Any]) -> None:
    whole = run(None, model, save_interval_steps=1, **HALF)
    final = whole.go().gather().model
    resume = next(pair for pair in whole.shelf.saved if pair[0].step == 7)
    again = run(None, model, save_interval_steps=1, **HALF)
    resumed = again.go(resume).gather().model
    assert losses(again) == losses(whole)[7:]
    assert all(torch.equal(resumed[name], tensor) for name, tensor in final.items())


def test_it_is_off_unless_asked_for(run: Make) -> None:
    plain, off, on = run(None, MASKED), run(None, MASKED, augmentation=None), run(None, MASKED, augmentation={})
    for one in (plain, off, on):
        one.go()
    assert losses(plain) == losses(off) != losses(on)
    config = on.config().augmentation
    assert config is not None
    assert config.model_dump() == {
        "probability": 0.1,
        "token_substitution": 0.05,
        "token_dropout": 0.1,
        "thought_noise": 0.01,
        "local_shuffle": 5,
    }


def test_a_mask_vector_that_no_row_has_read_yet_stops_no_run(run: Make) -> None:
    """It moves only where a token is dropped; the check that weights move knows it."""
    never = run(None, MASKED, augmentation={"probability": 0.0})
    never.go()
    assert len(never.hook.steps) == 20


def test_it_trains_the_mask_vector(run: Make) -> None:
    backend = run(None, MASKED, **HALF).backend()
    before = backend.gather().model["mask_vector"].clone()
    run(None, MASKED, **HALF).go(backend=backend)
    assert not torch.equal(backend.gather().model["mask_vector"], before)


def test_recomputed_activations_are_disturbed_in_the_same_way(run: Make) -> None:
    runs = [run(None, THOUGHTS, activation_checkpointing=again, **HALF) for again in (False, True)]
    weights = [one.go().gather().model for one in runs]
    assert losses(runs[0]) == losses(runs[1])
    assert all(torch.equal(weights[0][name], tensor) for name, tensor in weights[1].items())


def test_reported_losses_count_every_target(run: Make) -> None:
    augmented = run(None, MASKED, augmentation={"probability": 1.0})
    backend: SingleProcess = augmented.backend()
    augmented.go(backend=backend)
    assert [step.tokens for step in augmented.hook.steps] == [64 * number for number in range(1, 21)]
    assert augmented.hook.steps[0].nll == pytest.approx(4.16, abs=0.1)  # ln of 64 tokens
