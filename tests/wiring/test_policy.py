"""A policy's training put together: it leaves everything on disk, resumes exactly, and says what cannot be."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from workplace import Workplace, write_text

from dreamlm.checkpoints.convert.llama import export
from dreamlm.checkpoints.snapshot import read_snapshot
from dreamlm.checkpoints.store import Store
from dreamlm.core.errors import (
    CheckpointError,
    DataError,
    Interrupted,
    ResumeMismatch,
    TrainingFailed,
    UserMistake,
)
from dreamlm.core.generation.generate import generate
from dreamlm.core.rl.answer import Prompt
from dreamlm.core.rl.collect import Collector, Opinions
from dreamlm.core.rl.state import PolicyState
from dreamlm.core.training.backend.process_group import Place
from dreamlm.core.training.hooks import Hook, IterationReport, RewardReport, RunEnd, Sample
from dreamlm.data_sources.prompts import Prompts
from dreamlm.presets.resolve import resolve
from dreamlm.wiring.loading import load
from dreamlm.wiring.policy import train_policy
from dreamlm.wiring.policy_start import PolicyRequest, check_shares

SETTINGS = (
    "rl.prompts.words=4",
    "rl.prompts.validation_fraction=0.3",
    "rl.scoring.correctness=1.0",
    "rl.ppo.answers=8",
    "rl.ppo.minibatch=4",
    "rl.ppo.micro_batch=2",
    "rl.ppo.epochs=2",
    "rl.ppo.iterations=3",
    "rl.ppo.rollout.max_new_tokens=6",
    "rl.ppo.eval_iterations=2",
    "rl.ppo.eval_prompts=6",
    "rl.ppo.save_interval_iterations=1",
    "rl.ppo.optimizer.learning_rate=0.003",
    "rl.ppo.precision=fp32",
    "rl.ppo.stop_kl=100",
)
PUBLIC = {
    "policy_loss", "value_loss", "clip_fraction", "entropy", "approx_kl", "faithfulness", "coherence", "correctness",
    "creativity", "explained_variance",
}  # fmt: skip


class Heard(Hook):
    """Keeps what was told; stops the process's work after an iteration when asked to."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.iterations: list[IterationReport] = []
        self.rewards: list[RewardReport] = []
        self.samples: list[Sample] = []
        self.notices: list[str] = []
        self.ends: list[RunEnd] = []
        self._stop_after = stop_after

    def on_iteration(self, report: IterationReport) -> None:
        self.iterations.append(report)
        if len(self.iterations) == self._stop_after:
            raise KeyboardInterrupt  # the updates are made, nothing of them is saved

    def on_reward(self, report: RewardReport) -> None:
        self.rewards.append(report)

    def on_sample(self, sample: Sample) -> None:
        self.samples.append(sample)

    def on_notice(self, text: str) -> None:
        self.notices.append(text)

    def on_end(self, end: RunEnd) -> None:
        self.ends.append(end)


Learn = Callable[..., Heard]


@pytest.fixture
def learn(place: Workplace, trained: Callable[..., Path]) -> Learn:
    base = trained("train.train_tokens=2048")

    def start(name: str, *sets: str, stop_after: int | None = None, fresh: bool = True, **options: Any) -> Heard:
        heard = Heard(stop_after)
        request = PolicyRequest(
            place.folder / name, base if fresh else None, sets=(*SETTINGS, *sets) if fresh else sets, **options
        )
        train_policy(request, heard)
        return heard

    return start


def same_tensors(left: Path, right: Path) -> bool:
    one, other = (read_snapshot(run / "checkpoints" / "lm_current") for run in (left, right))
    parts = [(one.model, other.model), (one.heads, other.heads), (one.optimizer, other.optimizer)]
    return all(
        mine.keys() == yours.keys() and all(torch.equal(mine[name], yours[name]) for name in mine)
        for mine, yours in parts
    )


def test_a_run_leaves_everything_on_disk_and_its_snapshot_is_a_model_like_any_other(
    place: Workplace, learn: Learn
) -> None:
    heard = learn("policy")
    run = place.folder / "policy"
    files = {path.name for path in run.iterdir()}
    assert files >= {"preset.json", "metrics.jsonl", "training_report.json", "reference", "checkpoints"}
    newest = Store(run).latest()
    assert newest is not None
    assert (newest.record.kind, newest.record.step) == ("policy", 3)
    loaded = load(run)
    assert generate(loaded.model, loaded.tokenizer, ["the"], loaded.preset.generate)[0].text
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    iterations = [event for event in events if event["event"] == "iteration"]
    assert [event["step"] for event in iterations] == [1, 2, 3]
    assert all(event.keys() >= PUBLIC for event in iterations)
    assert [report.step for report in heard.rewards] == [0, 2, 3]
    assert len(json.loads((run / "training_report.json").read_text())["rewards"]) == 3
    assert heard.ends[0].reason == "finished"
    assert heard.ends[0].reward == heard.rewards[-1].reward


def test_the_policy_begins_as_its_reference_and_moves_away(learn: Learn) -> None:
    heard = learn("policy")
    assert heard.rewards[0].kl == 0
    assert heard.iterations[0].kl == 0
    assert heard.iterations[-1].kl != 0
    assert all(report.mismatch < 1e-4 for report in heard.iterations)
    assert all(report.epochs == 2 for report in heard.iterations)


@pytest.mark.parametrize(
    "extra", [(), ("rl.ppo.rollout.top_p=0.9", "rl.ppo.algorithm=reinforce")], ids=["ppo", "other"]
)
def test_a_run_that_was_stopped_anywhere_comes_to_the_same_weights(
    place: Workplace, learn: Learn, extra: tuple[str, ...]
) -> None:
    learn("whole", *extra)
    for after in (1, 1, 1):
        with pytest.raises(KeyboardInterrupt):
            learn("cut", *extra, stop_after=after)
    with pytest.raises(KeyboardInterrupt):
        learn("cut", *extra, stop_after=2)
    learn("cut", fresh=False)
    assert same_tensors(place.folder / "whole", place.folder / "cut")
    states = [read_snapshot(place.folder / run / "checkpoints" / "lm_current").state for run in ("whole", "cut")]
    assert PolicyState.from_json(states[0]) == PolicyState.from_json(states[1])


def test_more_iterations_go_on_as_if_they_had_been_asked_for(place: Workplace, learn: Learn) -> None:
    learn("long", "rl.ppo.iterations=4", "rl.ppo.eval_iterations=1")
    learn("short", "rl.ppo.eval_iterations=1")
    said = learn("short", fresh=False)
    assert said.ends[0].reason == "already_finished"
    learn("short", "rl.ppo.iterations=4", fresh=False)
    assert same_tensors(place.folder / "long", place.folder / "short")


def test_what_makes_another_run_of_it_is_refused(place: Workplace, learn: Learn) -> None:
    learn("policy")
    with pytest.raises(ResumeMismatch, match=r"rl\.ppo\.seed: the run has 0, the request 1"):
        learn("policy", "rl.ppo.seed=1", fresh=False)
    with pytest.raises(ResumeMismatch, match=r"rl\.ppo\.clip: the run has 0\.2, the request 0\.1") as caught:
        learn("policy", "rl.ppo.clip=0.1", fresh=False)
    assert caught.value.hint == "--allow-changes continues with the new values"
    more = ("rl.ppo.clip=0.1", "rl.ppo.iterations=4")
    assert learn("policy", *more, fresh=False, allow_changes=True).ends[0].step == 4
    with pytest.raises(ResumeMismatch, match="the prompts changed"):
        learn("policy", "rl.prompts.words=5", fresh=False)
    weights = place.folder / "policy" / "reference" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(CheckpointError):
        learn("policy", fresh=False)


def test_alarms_make_steps_smaller_and_then_stop_with_a_snapshot(place: Workplace, learn: Learn) -> None:
    changes = (
        "rl.ppo.alarms.patience=1",
        "rl.ppo.alarms.backoffs=1",
        "rl.ppo.alarms.entropy_share=0.99999",
        "rl.ppo.entropy_coefficient=0",
        "rl.ppo.iterations=30",
    )
    heard = Heard()
    request = PolicyRequest(place.folder / "policy", place.folder / "run", sets=(*SETTINGS, *changes))
    with pytest.raises(TrainingFailed, match="the policy collapses") as caught:
        train_policy(request, heard)
    assert "entropy is" in caught.value.what
    assert sum("the learning rate falls to 0.0015" in notice for notice in heard.notices) == 1
    assert heard.ends[-1].reason == "failed"
    newest = Store(place.folder / "policy").latest()
    assert newest is not None
    assert newest.record.step == heard.iterations[-1].step
    state = PolicyState.from_json(read_snapshot(newest.path).state)
    assert (state.rate_factor, state.watch.backoffs) == (0.5, 2)


def test_updates_that_are_not_finite_change_nothing_and_make_steps_smaller(place: Workplace, learn: Learn) -> None:
    changes = ("rl.ppo.value_coefficient=1e300", "rl.ppo.alarms.backoffs=1", "rl.ppo.max_skipped_updates=3")
    with pytest.raises(TrainingFailed, match="not finite: the loss or gradient of 75% of the updates"):
        learn("policy", *changes, "rl.ppo.iterations=9")
    newest = Store(place.folder / "policy").latest()
    assert newest is not None
    state = PolicyState.from_json(read_snapshot(newest.path).state)
    assert (state.step, state.updates, state.rate_factor, state.watch.backoffs) == (2, 0, 0.5, 2)
    before, after = (read_snapshot(path).model for path in (place.folder / "run/checkpoints/lm_current", newest.path))
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_ratio_that_does_not_begin_at_one_ends_the_run(monkeypatch: pytest.MonkeyPatch, learn: Learn) -> None:
    read = Collector._opinions

    def shifted(self: Collector, *given: Any) -> list[Opinions]:
        return [replace(one, policy_N=one.policy_N + 3e-5) for one in read(self, *given)]

    monkeypatch.setattr(Collector, "_opinions", shifted)
    with pytest.raises(TrainingFailed, match="the probability ratio of the first update is not 1: 6e-05 off"):
        learn("policy")


def test_an_interrupted_run_saves_and_goes_on(place: Workplace, learn: Learn) -> None:
    learn("whole")
    heard = Heard()
    heard.on_iteration = lambda report: os.kill(os.getpid(), signal.SIGINT)  # type: ignore[method-assign]
    request = PolicyRequest(place.folder / "cut", place.folder / "run", sets=SETTINGS)
    with pytest.raises(Interrupted, match="stopped at iteration 1; a snapshot was saved"):
        train_policy(request, heard)
    assert heard.ends[-1].reason == "interrupted"
    learn("cut", fresh=False)
    assert same_tensors(place.folder / "whole", place.folder / "cut")


def test_a_policy_can_be_where_another_begins(place: Workplace, learn: Learn) -> None:
    learn("first")
    heard = Heard()
    train_policy(PolicyRequest(place.folder / "second", place.folder / "first", sets=SETTINGS), heard)
    assert heard.rewards[0].kl == 0
    frozen, last = (
        read_snapshot(place.folder / one).model for one in ("second/reference", "first/checkpoints/lm_current")
    )
    assert all(torch.equal(frozen[name], last[name]) for name in last)


def test_a_model_with_modules_learns_and_resumes_exactly(place: Workplace, learn: Learn) -> None:
    base = place.folder / "deep"
    modules = ("model.segment_length=8", 'model.modules=[{"type": "segment_summary"}]', "model.attention_gate=true")
    place.train(base, "train.train_tokens=2048", *modules)
    for name, stop_after in (("whole", None), ("cut", 2)):
        heard = Heard(stop_after)
        try:
            train_policy(PolicyRequest(place.folder / name, base, sets=SETTINGS), heard)
        except KeyboardInterrupt:
            learn(name, fresh=False)
    assert heard.iterations[0].mismatch < 1e-4
    assert same_tensors(place.folder / "whole", place.folder / "cut")
    before, after = (read_snapshot(one / "checkpoints/lm_current").model for one in (base, place.folder / "whole"))
    still = {name for name in before if torch.equal(before[name], after[name])}
    assert {name for name in still if name.startswith("cognition.0.read")} == set()


def test_prompts_that_the_model_may_have_read_are_called_so(place: Workplace, learn: Learn) -> None:
    write_text(place.folder / "other.jsonl", documents=60, seed=1)
    other = f'rl.prompts.held_out={{"type": "jsonl", "paths": ["{place.folder / "other.jsonl"}"]}}'
    for name, sets, expected in (("own", (), True), ("another", (other,), False)):
        notices = learn(name, "rl.ppo.iterations=1", *sets).notices
        assert any("the model may have been trained on their source" in notice for notice in notices) == expected


def test_processes_that_cannot_share_the_answers_are_refused_by_name(place: Workplace) -> None:
    prompts = Prompts([Prompt("a")] * 9, [Prompt("b")] * 2, seed=0)
    config = resolve(place.folder / "small.json", SETTINGS).rl.ppo
    check_shares(config, prompts, Place(world_size=2))
    with pytest.raises(UserMistake, match="3 processes cannot share a mini-batch of 4 answers") as caught:
        check_shares(config, prompts, Place(world_size=3))
    assert caught.value.where == "rl.ppo.minibatch"
    with pytest.raises(UserMistake, match="4 processes cannot share 2 held-out prompts"):
        check_shares(config.model_copy(update={"minibatch": 8}), prompts, Place(world_size=4))


def test_creativity_can_look_for_copies_in_the_training_text(place: Workplace, learn: Learn) -> None:
    apart = [
        learn(name, f"rl.copied_from={name}", "rl.ppo.rollout.top_k=1").iterations[0].components
        for name in ("prompt", "training")
    ]
    assert apart[1]["creativity"] < apart[0]["creativity"]
    assert apart[1]["coherence"] == apart[0]["coherence"]
    shutil.rmtree(place.folder / "home")
    with pytest.raises(DataError):
        learn("training", "rl.ppo.iterations=4", fresh=False)


def test_a_nucleus_does_not_hide_the_distance_from_the_reference(learn: Learn) -> None:
    """Cut to its own few tokens, the policy would look like the reference however far it is."""
    moved = ("rl.ppo.rollout.top_k=1", "rl.ppo.optimizer.learning_rate=0.05", "rl.ppo.kl.initial=0.000001")
    heard = learn("policy", *moved)
    assert heard.rewards[0].kl == 0
    assert abs(heard.rewards[-1].kl) > 0.01


def test_the_model_stays_the_one_it_begins_as(place: Workplace, learn: Learn) -> None:
    for change in ("model.num_layers=2", "model.seq_length=16", "tokenizer.vocab_size=400"):
        with pytest.raises(UserMistake, match="does not change what the model is") as caught:
            learn("policy", change)
        assert change.partition("=")[0] in caught.value.what
    assert not (place.folder / "policy").exists()


def test_another_origin_is_not_read_once_the_run_has_begun_and_that_is_said(place: Workplace, learn: Learn) -> None:
    learn("policy")
    more = (*SETTINGS, "rl.ppo.iterations=4")
    for origin, said in ((place.folder / "run", 0), (place.folder / "gone", 1)):
        heard = Heard()
        train_policy(PolicyRequest(place.folder / "policy", origin, sets=more), heard)
        assert sum("is not what the run began with" in notice for notice in heard.notices) == said


def test_a_stock_model_is_a_beginning_too(place: Workplace, learn: Learn) -> None:
    learn("warm")  # makes the run that is exported
    export(place.folder / "run" / "checkpoints" / "lm_current", place.folder / "stock")
    begin = PolicyRequest(place.folder / "policy", place.folder / "stock", place.preset(), SETTINGS)
    whole, heard = Heard(), Heard(stop_after=2)
    train_policy(begin, whole)
    assert whole.rewards[0].kl == 0
    assert whole.ends[0].reason == "finished"
    with pytest.raises(KeyboardInterrupt):
        train_policy(replace(begin, run=place.folder / "cut"), heard)
    with pytest.raises(UserMistake, match="has no preset inside"):
        train_policy(replace(begin, run=place.folder / "other", preset=None), Heard())
    shutil.rmtree(place.folder / "stock")
    train_policy(replace(begin, run=place.folder / "cut", model=None, preset=None, sets=()), Heard())
    assert same_tensors(place.folder / "policy", place.folder / "cut")
    loaded = load(place.folder / "policy")
    assert generate(loaded.model, loaded.tokenizer, ["the"], loaded.preset.generate)[0].token_ids


def test_a_run_of_training_is_not_gone_on_with(place: Workplace, learn: Learn) -> None:
    with pytest.raises(CheckpointError, match=r"state\.json is of kind training"):
        learn("run", fresh=False)


def test_updates_end_when_the_policy_has_moved_too_far(learn: Learn) -> None:
    heard = learn("policy", "rl.ppo.stop_kl=0.0000001")
    assert all(0 < report.epochs < 2 for report in heard.iterations)


def test_requests_that_cannot_be_are_explained_before_anything_is_written(place: Workplace, learn: Learn) -> None:
    for change, what in (
        ("rl.scoring.learned=1.0", "no reward model is named"),
        ("rl.ppo.rollout.max_new_tokens=31", "no room for a prompt"),
        ("rl.ppo.minibatch=3", "minibatch 3 must divide answers 8"),
    ):
        with pytest.raises(UserMistake, match=what):
            learn("policy", change)
        assert not (place.folder / "policy").exists()
    with pytest.raises(UserMistake, match="no run to continue"):
        learn("nowhere", fresh=False)
    assert not (place.folder / "nowhere").exists()


def test_the_origin_may_go_once_the_run_has_begun(place: Workplace, learn: Learn) -> None:
    with pytest.raises(KeyboardInterrupt):
        learn("policy", stop_after=1)
    shutil.rmtree(place.folder / "run")
    assert learn("policy", fresh=False).ends[0].reason == "finished"
