"""Steps whose loss or gradient is not finite, or too large: what they change, what is counted, when they end a run."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from small_runs import Run

from dreamlm.core.errors import TrainingFailed
from dreamlm.core.training.backend.backend import Backend, WindowBatch

Make = Callable[..., Run]


def poison(backend: object, from_step: int) -> None:
    """Make one weight infinite before a step, as a broken update would."""
    compute, calls = backend.forward_backward, [0]  # type: ignore[attr-defined]

    def forward_backward(micro_batches):  # type: ignore[no-untyped-def]
        calls[0] += 1
        if calls[0] > from_step:
            with torch.no_grad():
                backend.model.layers[1].feed_forward.up.weight[0, 0] = float("inf")  # type: ignore[attr-defined]
        return compute(micro_batches)

    backend.forward_backward = forward_backward  # type: ignore[attr-defined]


@pytest.mark.parametrize("limit", [1e-3, 1e3])
def test_a_gradient_longer_than_the_limit_is_scaled_down_to_it(run: Make, limit: float) -> None:
    clipped = run(max_grad_norm=limit)
    backend = clipped.backend()
    windows, _ = clipped.stream.draw(clipped.stream.start(), 4)
    backend.forward_backward([WindowBatch(clipped.stream.read(windows), 1)])
    gradients = {name: one.grad.clone() for name, one in backend.model.named_parameters()}
    norm = torch.stack([one.norm() for one in gradients.values()]).norm().item()
    assert 1e-2 < norm < 1e2
    assert backend.update(1.0).gradient_norm == pytest.approx(norm, rel=1e-5)
    state = backend.gather().optimizer
    for name, gradient in gradients.items():
        remembered = state[f"{name}/exp_avg"] / (1 - clipped.config().optimizer.betas[0])
        torch.testing.assert_close(remembered, gradient * min(1.0, limit / norm), rtol=1e-4, atol=1e-9)


def not_finite(run: Run, *calls: int) -> Backend:
    """A backend that finds no finite loss in these forward passes, counted from 1."""
    backend = run.backend()
    compute, done = backend.forward_backward, [0]

    def forward_backward(micro_batches):  # type: ignore[no-untyped-def]
        done[0] += 1
        measured = compute(micro_batches)
        return replace(measured, nll=math.nan) if done[0] in calls else measured

    backend.forward_backward = forward_backward  # type: ignore[method-assign]
    return backend


def test_too_many_steps_that_are_not_finite_end_at_the_last_finite_snapshot(run: Make) -> None:
    bad = run(max_skipped_steps=3, save_interval_steps=2)
    backend = bad.backend()
    poison(backend, from_step=5)
    with pytest.raises(TrainingFailed, match=r"3 steps in a row .* layers\.1\.feed_forward\.up.* step 4"):
        bad.go(backend=backend)
    assert bad.shelf.rolled_back
    assert [report.applied for report in bad.hook.steps] == [True] * 5 + [False] * 3
    assert bad.hook.ends[-1].reason == "failed"


def test_a_gradient_that_is_not_finite_changes_nothing(run: Make) -> None:
    backend = run().backend()
    batch_of = run()
    windows, _ = batch_of.stream.draw(batch_of.stream.start(), 4)
    micro = [WindowBatch(batch_of.stream.read(windows), 1)]
    backend.forward_backward(micro)
    backend.update(1.0)
    before = backend.gather()
    before = ({k: v.clone() for k, v in before.model.items()}, {k: v.clone() for k, v in before.optimizer.items()})
    backend.forward_backward(micro)
    backend.model.norm.weight.grad[3] = float("nan")
    assert not backend.update(1.0).applied
    after = backend.gather()
    assert all(torch.equal(after.model[name], tensor) for name, tensor in before[0].items())
    assert all(torch.equal(after.optimizer[name], tensor) for name, tensor in before[1].items())


def test_one_skipped_step_does_not_pass_for_a_loss_that_does_not_fall(run: Make) -> None:
    noisy = run(train_tokens=64 * 110)
    noisy.go(backend=not_finite(noisy, 3))
    assert noisy.hook.ends[-1].reason == "finished"
    assert len(noisy.shelf.saved[-1][0].early_losses) == 100


def test_a_skipped_step_has_trained_no_token(run: Make) -> None:
    noisy = run(train_tokens=64 * 10)
    noisy.go(backend=not_finite(noisy, 3))
    assert [report.tokens for report in noisy.hook.steps] == [64 * step for step in (1, 2, 2, 3, 4, 5, 6, 7, 8, 9, 10)]


def test_only_steps_in_a_row_count_against_a_run(run: Make) -> None:
    noisy = run(train_tokens=64 * 10, max_skipped_steps=2)
    noisy.go(backend=not_finite(noisy, 2, 4, 6))
    assert noisy.hook.ends[-1].reason == "finished"
    assert noisy.shelf.saved[-1][0].skipped_in_a_row == 0
