"""The loop of a reward model: it learns what can be learned, says how sure it is, and goes on as if never stopped."""

import math
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
import torch
from small_rewards import RewardRun, Shelf, answer, cat_pairs, graded_pairs

from dreamlm.core.errors import Interrupted, MicroBatchTooLarge, TrainingFailed
from dreamlm.core.rl.answer import Answer
from dreamlm.core.rl.pair import Pair
from dreamlm.core.rl.reward_config import RewardConfig
from dreamlm.core.rl.reward_training import RewardData
from dreamlm.core.training.backend.backend import Measured, MicroBatch
from dreamlm.core.training.backend.single import SingleProcess
from dreamlm.core.training.hooks import Hook, PreferenceMeasured, RunEnd, StepReport

HELD_OUT = cat_pairs(60, seed=7)


class Cut(Exception):
    """Ends a run where a test wants it to end."""


@dataclass
class Watcher(Hook):
    """Remembers, and acts after a step when told to."""

    act_at: int | None = None
    act: str = "cut"
    steps: list[StepReport] = field(default_factory=list)
    measured: list[PreferenceMeasured] = field(default_factory=list)
    ends: list[RunEnd] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)

    def on_step(self, report: StepReport) -> None:
        self.steps.append(report)
        if report.step == self.act_at:
            if self.act == "cut":
                raise Cut
            os.kill(os.getpid(), signal.SIGTERM)

    def on_preference(self, report: PreferenceMeasured) -> None:
        self.measured.append(report)

    def on_end(self, end: RunEnd) -> None:
        self.ends.append(end)

    def on_notice(self, text: str) -> None:
        self.notices.append(text)


def weights(shelf: Shelf) -> dict[str, torch.Tensor]:
    last = shelf.saved[-1][1]
    return {**last.model, **last.optimizer}


def assert_same_weights(ours: Shelf, theirs: Shelf) -> None:
    one, other = weights(ours), weights(theirs)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in other)
    assert ours.saved[-1][0] == theirs.saved[-1][0]


def test_an_easy_preference_is_learned() -> None:
    hook = Watcher()
    state, model = RewardRun(cat_pairs(160), HELD_OUT, hook=hook).go()
    assert state.report is not None
    assert state.report.accuracy > 0.95
    assert state.report.above_chance
    assert state.report.loss < 0.3
    assert state.report.calibration_error < 0.2
    better, worse = model.score([answer("the cat saw 3", "a cat sat"), answer("the cat saw 3", "a dog sat")])
    assert better > worse + 1
    assert [one.step for one in hook.measured] == [20, 40]
    assert hook.measured[-1].best
    assert (hook.ends[0].reason, hook.ends[0].validation_nll) == ("finished", state.report.loss)


@pytest.mark.parametrize("shape", ["with a module", "experts"])
def test_any_trunk_learns_it(shape: str) -> None:
    state, _ = RewardRun(cat_pairs(160), HELD_OUT, model_options={"shape": shape}).go()
    assert state.report is not None
    assert state.report.accuracy > 0.9


def test_labels_without_a_reason_leave_it_at_chance() -> None:
    state, _ = RewardRun(cat_pairs(160, flipped=0.5), cat_pairs(60, seed=7, flipped=0.5)).go()
    assert state.report is not None
    assert not state.report.above_chance


def test_confidence_is_one_minus_twice_the_share_of_wrong_labels() -> None:
    confidence = {}
    for flipped in (0.0, 0.15):
        options = {"epochs": 5, "optimizer": {"learning_rate": 1e-2}}
        run = RewardRun(graded_pairs(320, 0, flipped), graded_pairs(60, 5), options, {"num_layers": 1})
        state, _ = run.go()
        assert state.report is not None
        assert state.report.accuracy > 0.9
        confidence[flipped] = state.report.mean_confidence
    assert confidence[0.0] > 0.97
    assert confidence[0.15] == pytest.approx(0.7, abs=0.12)


def test_a_component_ranks_as_it_was_measured_though_the_preference_says_otherwise() -> None:
    """Cats are preferred, dogs are measured as creative: the mixture learns not to count creativity."""

    def dogs_are_creative(answers: Sequence[Answer]) -> dict[str, list[float | None]]:
        return {"creativity": [float("dog" in one.text) for one in answers]}

    options = {"epochs": 4, "component_weight": 1.0}
    state, model = RewardRun(cat_pairs(160), HELD_OUT, options, measure=dogs_are_creative).go()
    assert state.report is not None
    assert state.report.accuracy > 0.95
    cat, dog = (answer("the cat saw 3", f"a {word} sat") for word in ("cat", "dog"))
    components = model.components([cat, dog])
    assert components["creativity"][1] > components["creativity"][0] + 1
    assert components["correctness"][0] > components["correctness"][1] + 1
    faithfulness, coherence, correctness, creativity = model.heads.mixture.softmax(0).tolist()
    assert creativity < 0.24 < faithfulness == coherence == correctness


def test_preferences_alone_leave_the_components_equal() -> None:
    _, model = RewardRun(cat_pairs(80), HELD_OUT).go()
    first, *others = model.components([answer("the", "a cat"), answer("the", "a dog")]).values()
    assert others == [pytest.approx(first, abs=1e-5)] * 3
    assert model.heads.mixture.softmax(0).tolist() == pytest.approx([0.25] * 4, abs=1e-5)


def test_a_run_cut_at_every_step_ends_like_one_that_never_stopped() -> None:
    pairs, options = cat_pairs(37), {"save_interval_steps": 3}
    whole = RewardRun(pairs, HELD_OUT, options)
    state, _ = whole.go()
    for step in range(1, state.planned_steps + 1):
        broken = RewardRun(pairs, HELD_OUT, options, hook=Watcher(act_at=step))
        with pytest.raises(Cut):
            broken.go()
        assert broken.shelf.saved[-1][0].step < step
        broken.hook = Watcher()
        broken.go(resume=True)
        assert_same_weights(broken.shelf, whole.shelf)


def test_a_signal_saves_and_changes_nothing() -> None:
    whole = RewardRun(cat_pairs(37), HELD_OUT)
    whole.go()
    hook = Watcher(act_at=4, act="signal")
    stopped = RewardRun(cat_pairs(37), HELD_OUT, hook=hook)
    with pytest.raises(Interrupted) as caught:
        stopped.go()
    assert (caught.value.signal_number, stopped.shelf.saved[-1][0].step) == (signal.SIGTERM, 4)
    assert hook.ends[0].reason == "interrupted"
    stopped.hook = Hook()
    stopped.go(resume=True)
    assert_same_weights(stopped.shelf, whole.shelf)


@pytest.mark.parametrize(("pairs", "size"), [(37, 8), (8, 8), (3, 8), (9, 1)])
def test_every_epoch_sees_each_pair_once_in_an_order_of_its_own(pairs: int, size: int) -> None:
    config = RewardConfig(epochs=2, pairs_per_step=size)
    data = RewardData(range(pairs), ())  # type: ignore[arg-type]
    per_epoch = data.steps_per_epoch(config)
    epochs = [
        [pair for step in range(begin, begin + per_epoch) for pair in data.draw(config, step)]
        for begin in (0, per_epoch)
    ]
    assert [sorted(epoch) for epoch in epochs] == [list(range(pairs))] * 2
    assert pairs < 9 or epochs[0] != epochs[1]
    assert data.steps(config) == 2 * per_epoch


def test_the_micro_batch_changes_rounding_only() -> None:
    pairs = [*cat_pairs(16), Pair("a", "the cat sat on the mat", "dog")]
    losses = []
    for rows in (1, 3, 8):
        hook = Watcher()
        RewardRun(pairs, HELD_OUT, {"pairs_per_micro_batch": rows, "epochs": 1}, hook=hook).go()
        losses.append([step.nll for step in hook.steps])
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    assert losses[0] == pytest.approx(losses[2], abs=1e-4)


def test_steps_that_are_not_finite_are_skipped_and_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    compute = SingleProcess.forward_backward

    def broken(backend: SingleProcess, micro_batches: Sequence[MicroBatch]) -> object:
        measured = compute(backend, micro_batches)
        return type(measured)(math.nan, measured.objectives, measured.tokens, measured.probes)

    monkeypatch.setattr(SingleProcess, "forward_backward", broken)
    hook = Watcher()
    run = RewardRun(cat_pairs(40), HELD_OUT, {"max_skipped_steps": 3}, hook=hook)
    with pytest.raises(TrainingFailed, match=r"3 steps in a row were not finite; the run is back .* step 0"):
        run.go()
    assert [step.applied for step in hook.steps] == [False] * 3
    assert hook.ends[0].reason == "failed"


class Cramped(SingleProcess):
    """Has room for micro-batches of so many pairs only."""

    pairs = 3

    def forward_backward(self, micro_batches: Sequence[MicroBatch]) -> Measured:
        if any(micro.targets > self.pairs for micro in micro_batches[1:]):  # the first has left a gradient
            super().forward_backward(micro_batches[:1])
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().forward_backward(micro_batches)


def test_one_process_halves_a_micro_batch_that_does_not_fit_and_repeats_the_step() -> None:
    """The run is the one that began with the smaller micro-batch, and a resume remembers what has fitted."""
    pairs, fewer = cat_pairs(37), {"pairs_per_micro_batch": 2}
    small = RewardRun(pairs, HELD_OUT, fewer)
    small.go()
    hook = Watcher(act_at=6)
    cramped = RewardRun(pairs, HELD_OUT, {"pairs_per_micro_batch": 4, "save_interval_steps": 3}, hook=hook)
    cramped.backend = Cramped
    with pytest.raises(Cut):
        cramped.go()
    assert hook.notices == ["out of memory: micro-batch 4 -> 2 pairs, accumulation x2; the step is the same"]
    assert cramped.shelf.saved[-1][0].micro_pairs == 2
    cramped.hook = after = Watcher()
    cramped.go(resume=True)
    assert after.notices == []
    one, other = weights(cramped.shelf), weights(small.shelf)
    assert all(torch.equal(one[name], other[name]) for name in other)


def test_a_backend_that_cannot_repeat_a_step_stops_with_the_setting_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SingleProcess, "can_repeat", False)
    hook = Watcher()
    rank = RewardRun(cat_pairs(37), HELD_OUT, {"pairs_per_micro_batch": 4}, hook=hook)
    rank.backend = Cramped
    with pytest.raises(MicroBatchTooLarge) as caught:
        rank.go()
    assert (caught.value.rows, caught.value.fewer, caught.value.exit_code) == (4, 2, 75)
    assert "--set rl.reward_model.pairs_per_micro_batch=2:" in caught.value.hint
    assert hook.ends == []  # the run goes on when the processes are started again


def test_a_step_that_does_not_fit_in_memory_names_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(backend: SingleProcess, micro_batches: Sequence[MicroBatch]) -> object:
        raise MemoryError

    monkeypatch.setattr(SingleProcess, "forward_backward", exhausted)
    with pytest.raises(TrainingFailed, match="out of memory") as caught:
        RewardRun(cat_pairs(9), HELD_OUT).go()
    assert caught.value.where == "rl.reward_model.pairs_per_micro_batch"
