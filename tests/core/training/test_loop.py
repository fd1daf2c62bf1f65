"""The loop: what a resume repeats, what a bad step changes, and which numbers are reported."""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_runs import Run
from stream_of_text import VOCAB, TextStream

from dreamlm.core.errors import Interrupted, LossNotFinite, OutOfSpace, TrainingFailed
from dreamlm.core.training import saving, telling
from dreamlm.core.training.backend.backend import WindowBatch
from dreamlm.core.training.backend.single import SingleProcess
from dreamlm.core.training.diagnosis import name_cause
from dreamlm.core.training.hooks import StepReport
from dreamlm.core.training.state import TrainingState
from dreamlm.core.training.surroundings import Validation

Make = Callable[..., Run]


def weights(backend: object) -> dict[str, torch.Tensor]:
    return dict(backend.gather().model)  # type: ignore[attr-defined]


def losses(run: Run) -> list[float]:
    return [report.nll for report in run.hook.steps]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_resume_from_any_step_gives_the_same_losses_and_weights(run: Make, optimizer: str) -> None:
    options = {"save_interval_steps": 1, "optimizer": optimizer, "accumulation_steps": 2}
    whole = run(**options)
    final = weights(whole.go())
    assert len(whole.hook.steps) == 10
    for state, tensors in whole.shelf.saved[1:-1:2]:
        again = run(**options)
        resumed = weights(again.go((state, tensors)))
        assert losses(again) == losses(whole)[state.step :]
        assert all(torch.equal(resumed[name], tensor) for name, tensor in final.items())


def test_a_resume_of_a_resume_across_an_epoch_edge_is_exact(run: Make) -> None:
    stream = TextStream(windows=10)  # an epoch ends in the middle of a step
    whole = run(stream, save_interval_steps=3)
    final = weights(whole.go())
    middle = run(stream, save_interval_steps=3)
    middle.go(whole.shelf.saved[1])
    last = run(stream)
    resumed = weights(last.go(middle.shelf.saved[0]))
    assert middle.shelf.saved[0][0].step == 6
    assert losses(last) == losses(whole)[6:]
    assert all(torch.equal(resumed[name], tensor) for name, tensor in final.items())


def test_halving_the_micro_batch_keeps_the_step(run: Make) -> None:
    model = {"dropout": 0.0}
    whole, halves = run(model=model), run(model=model)
    whole.go()
    halves.go((replace(halves.first_state(), micro_rows=2), halves.backend().gather()))
    assert losses(halves) == pytest.approx(losses(whole), rel=1e-4)


def test_running_out_of_memory_halves_the_micro_batch_and_repeats_the_step(run: Make) -> None:
    small = run(model={"dropout": 0.0})
    backend = small.backend()
    compute = backend.forward_backward

    def forward_backward(micro_batches):  # type: ignore[no-untyped-def]
        if len(micro_batches[0].batch.tokens) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return compute(micro_batches)

    backend.forward_backward = forward_backward  # type: ignore[method-assign]
    small.go(backend=backend)
    roomy = run(model={"dropout": 0.0})
    roomy.go()
    assert losses(small) == pytest.approx(losses(roomy), rel=1e-4)
    assert [notice for notice in small.hook.notices if "out of memory" in notice] == [
        "out of memory: micro-batch 4 -> 2 rows, accumulation x2; the step is the same",
        "out of memory: micro-batch 2 -> 1 rows, accumulation x2; the step is the same",
    ]
    assert small.shelf.saved[-1][0].micro_rows == 1


def test_one_row_that_does_not_fit_is_an_error_that_names_the_way_out(run: Make) -> None:
    small = run(per_gpu_batch_size=1)
    backend = small.backend()

    def forward_backward(micro_batches):  # type: ignore[no-untyped-def]
        raise MemoryError

    backend.forward_backward = forward_backward  # type: ignore[method-assign]
    with pytest.raises(TrainingFailed, match="1 row in a micro-batch") as caught:
        small.go(backend=backend)
    assert "activation_checkpointing" in caught.value.hint


def test_the_bad_documents_are_named(run: Make) -> None:
    healthy = run()
    backend = healthy.backend()
    windows, _ = healthy.stream.draw(healthy.stream.start(), 2)
    micro = WindowBatch(healthy.stream.read(windows), 0)

    def overflow(module, inputs, output):  # type: ignore[no-untyped-def]
        output[1, 0, 0] = float("inf")

    backend.model.layers[1].attention.register_forward_hook(lambda m, i, o: overflow(m, i, o[0]))
    cause = name_cause(backend, healthy.stream, [micro])
    assert (
        cause
        == f"the first output that is not finite is that of layers.1.attention, reading text: window {windows[1].index}"
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_step_saves_and_stops(run: Make, number: int) -> None:
    stopped = run(save_interval_steps=1000)

    class Sender(type(stopped.hook)):  # type: ignore[misc]
        def on_step(self, report: StepReport) -> None:
            super().on_step(report)
            if report.step == 7:
                os.kill(os.getpid(), number)

    stopped.hook = Sender()
    before = signal.getsignal(number)
    with pytest.raises(Interrupted) as caught:
        stopped.go()
    assert caught.value.signal_number == number
    assert stopped.shelf.saved[-1][0].step == 7
    assert stopped.hook.ends[-1].reason == "interrupted"
    assert signal.getsignal(number) is before
    whole, resumed = run(), run()
    whole.go()
    resumed.go(stopped.shelf.saved[-1])
    assert losses(resumed) == losses(whole)[7:]


def test_every_process_waits_until_the_first_has_committed(run: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that ended before would take the first one along."""
    events: list[str] = []
    waiting = run(save_interval_steps=5)
    commit, ask = waiting.shelf.save, SingleProcess.any
    monkeypatch.setattr(waiting.shelf, "save", lambda *parts: events.append("commit") or commit(*parts))
    monkeypatch.setattr(SingleProcess, "any", lambda self, flag: events.append("meet") or ask(self, flag))
    waiting.go()
    assert events.count("commit") == 5
    assert all(after == "meet" for before, after in pairwise([*events, "end"]) if before == "commit")


def test_a_run_that_was_asked_for_more_counts_the_steps_it_will_take(run: Make) -> None:
    first, longer = run(), run(train_tokens=4 * 16 * 30)
    first.go()
    longer.go(first.shelf.saved[-1])
    assert [start.planned_steps for start in first.hook.starts + longer.hook.starts] == [20, 30]
    assert longer.hook.steps[-1].step == 30


def test_a_full_disk_pauses_training_until_there_is_space_and_says_so_once(run: Make) -> None:
    paused = run(save_interval_steps=5, retry_seconds=0.01)
    commit, failures = paused.shelf.save, iter([False, True, True, False])

    def save(state, tensors):  # type: ignore[no-untyped-def]
        if next(failures, False):
            raise OutOfSpace("runs/x", 10_000_000, 5_000_000, "another folder")
        return commit(state, tensors)

    paused.shelf.save = save  # type: ignore[method-assign]
    paused.go()
    assert [state.step for state, _ in paused.shelf.saved] == [0, 5, 10, 15, 20]
    assert (
        paused.hook.notices.count(
            "paused: not enough disk space: 10.0 MB needed, 5.0 MB free in runs/x; free some space and training goes on"
        )
        == 1
    )


def test_evaluation_comes_after_every_eval_tokens_and_at_the_end(run: Make) -> None:
    whole = run(eval_tokens=300)
    whole.go()
    assert [report.step for report in whole.hook.evaluations] == [5, 10, 15, 19, 20]
    assert [report.best for report in whole.hook.evaluations] == [True, False, False, False, False]


def test_tokens_are_real_targets(run: Make) -> None:
    class Padded(TextStream):
        def read(self, windows):  # type: ignore[no-untyped-def]
            batch = super().read(windows)
            batch.documents[:, 9:] = -1
            return batch

    padded = run(Padded(boundaries=False), train_tokens=4 * 8 * 5)
    padded.go()
    assert [report.tokens for report in padded.hook.steps] == [32, 64, 96, 128, 160]


def test_the_reported_learning_rate_is_the_one_used(run: Make) -> None:
    cosine = run(
        schedule={"type": "cosine", "warmup_steps": 2, "floor": 0.1}, optimizer={"learning_rate": 1e-2, "type": "adamw"}
    )
    cosine.go()
    rates = [report.learning_rate for report in cosine.hook.steps]
    assert rates[:3] == pytest.approx([5e-3, 1e-2, 1e-2])
    assert rates == sorted(rates[:2]) + sorted(rates[2:], reverse=True)


def test_the_reported_loss_is_unsmoothed(run: Make) -> None:
    plain, smoothed = run(), run(label_smoothing=0.3)
    plain.go()
    smoothed.go()
    assert smoothed.hook.steps[0].nll == plain.hook.steps[0].nll
    last = smoothed.hook.steps[-1]
    assert last.objectives["token"] > last.nll + 0.01


def test_a_fresh_model_with_a_wrong_first_loss_is_not_trained(run: Make) -> None:
    broken = run()
    backend = broken.backend()
    with torch.no_grad():
        backend.model.embedding.weight.mul_(30)
    with pytest.raises(TrainingFailed, match=r"not within 2 % of ln 64 = 4\.1589"):
        broken.go(backend=backend)


def test_a_parameter_that_never_moves_is_named(run: Make) -> None:
    broken = run()
    backend = broken.backend()
    backend.model.norm.unused = torch.nn.Parameter(torch.ones(3))
    with pytest.raises(TrainingFailed, match=r"did not change 1 of 25 parameters: norm\.unused"):
        broken.go(backend=backend)


def test_a_loss_that_does_not_fall_ends_the_run_at_step_100(run: Make) -> None:
    class EasyFirst(TextStream):
        def read(self, windows):  # type: ignore[no-untyped-def]
            batch, epoch = super().read(windows), windows[0].epoch
            noise = np.random.default_rng(epoch).integers(VOCAB, size=batch.tokens.shape)
            return replace(batch, tokens=noise * (epoch > 4))

    stuck = run(EasyFirst(windows=8), train_tokens=64 * 200)
    with pytest.raises(TrainingFailed, match="after 100 steps the loss has not fallen"):
        stuck.go()


def test_a_snapshot_is_due_when_so_much_time_went_by_since_the_last(run: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = run(train_tokens=64 * 10, save_interval_steps=None, save_interval_seconds=25.0, eval_tokens=64 * 1000)
    backend, now = slow.backend(), [0.0]
    compute = backend.forward_backward

    def forward_backward(micro_batches):  # type: ignore[no-untyped-def]
        now[0] += 10.0
        return compute(micro_batches)

    backend.forward_backward = forward_backward  # type: ignore[method-assign]
    monkeypatch.setattr(saving, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=time.sleep))
    slow.go(backend=backend)
    assert [state.step for state, _ in slow.shelf.saved] == [0, 3, 6, 9, 10]


def test_the_best_weights_are_saved_as_soon_as_they_are_measured(run: Make) -> None:
    found = iter([3.0, 2.0, 2.5, 2.6])
    measured = run(eval_tokens=320)
    measured.validate = lambda: Validation(next(found), 1.0, {})
    measured.go()
    assert [report.step for report in measured.hook.evaluations] == [5, 10, 15, 20]
    assert [state.step for state, _ in measured.shelf.saved] == [0, 5, 10, 20]


def test_a_snapshot_claims_no_loss_that_other_weights_had(run: Make) -> None:
    saved = run(eval_tokens=320, save_interval_steps=2)
    saved.go()
    measured = {state.step: state.measured_loss for state, _ in saved.shelf.saved}
    assert {step for step, loss in measured.items() if loss is not None} == {5, 10, 20}
    assert {0, 2, 4, 6, 8} <= {step for step, loss in measured.items() if loss is None}


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp32", torch.float32)])
def test_utilisation_is_a_share_of_products_without_casts(
    run: Make, monkeypatch: pytest.MonkeyPatch, precision: str, dtype: torch.dtype
) -> None:
    asked: list[tuple[torch.dtype, bool]] = []

    def peak(device: torch.device, dtype: torch.dtype) -> float:
        asked.append((dtype, torch.is_autocast_enabled("cpu")))
        return 1e9

    monkeypatch.setattr(telling, "matmul_peak", peak)
    run(precision=precision, train_tokens=64).go()
    assert asked == [(dtype, False)]


def test_a_head_that_overflows_is_named_with_what_it_read(run: Make) -> None:
    healthy = run()
    backend = healthy.backend()
    windows, _ = healthy.stream.draw(healthy.stream.start(), 2)
    micro = WindowBatch(healthy.stream.read(windows), 0)
    with torch.no_grad():
        backend.model.norm.weight.fill_(1e30)
        backend.model.embedding.weight.mul_(1e12)
    cause = name_cause(backend, healthy.stream, [micro])
    assert cause.startswith("the first output that is not finite is that of head, reading text: window ")


def test_a_gradient_that_overflows_is_named_with_what_was_read(run: Make) -> None:
    healthy = run()
    backend = healthy.backend()
    windows, _ = healthy.stream.draw(healthy.stream.start(), 1)
    micro = WindowBatch(healthy.stream.read(windows), 0)
    backend.model.layers[1].attention.output.weight.register_hook(lambda gradient: gradient * float("inf"))
    assert name_cause(backend, healthy.stream, [micro]) == (
        "every layer's output is finite, but the gradient of layers.1.attention.output.weight is not, "
        f"reading text: window {windows[0].index}"
    )


@pytest.mark.parametrize("moment", ["at once", "later"])
def test_a_failed_check_ends_the_run_on_record(run: Make, moment: str) -> None:
    broken = run()
    backend = broken.backend()
    if moment == "at once":
        with torch.no_grad():
            backend.model.embedding.weight.mul_(30)
    else:
        backend.model.norm.unused = torch.nn.Parameter(torch.ones(3))
    with pytest.raises(TrainingFailed):
        broken.go(backend=backend)
    assert [(end.reason, end.step) for end in broken.hook.ends] == [("failed", 0 if moment == "at once" else 10)]


def test_the_state_survives_json() -> None:
    state = Run().first_state()
    assert TrainingState.from_json(state.to_json()) == state


def test_a_held_out_loss_that_is_not_finite_ends_at_the_last_finite_snapshot(run: Make) -> None:
    diverged = run(save_interval_steps=4)

    def validate() -> Validation:
        raise LossNotFinite("the loss is not finite on 3 of 7 held-out windows")

    diverged.validate = validate
    with pytest.raises(TrainingFailed, match=r"on held-out text the loss is not finite on 3 of 7 .* step 8"):
        diverged.go()
    assert diverged.shelf.rolled_back
    assert diverged.hook.ends[-1].reason == "failed"
