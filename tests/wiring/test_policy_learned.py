"""A policy that learns from a reward model: what its answers earn, who may judge them, and where the judge lives."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from judges import Place, furnish
from workplace import Witness

from dreamlm.checkpoints.snapshot import read_snapshot
from dreamlm.core.errors import NotAboveChance
from dreamlm.core.rl.answer import Answer, Prompt
from dreamlm.core.training.hooks import IterationReport, RewardReport, Sample
from dreamlm.wiring.policy import train_policy
from dreamlm.wiring.policy_start import PolicyRequest
from dreamlm.wiring.reward import load_reward_model

EVAL_PROMPTS = 6
SETTINGS = (
    "rl.prompts.words=4",
    "rl.prompts.validation_fraction=0.3",
    *(f"rl.scoring.{name}=0" for name in ("faithfulness", "coherence", "correctness", "creativity")),
    "rl.scoring.learned=1.0",
    "rl.scoring.measure_all=false",
    "rl.ppo.answers=8",
    "rl.ppo.minibatch=4",
    "rl.ppo.epochs=2",
    "rl.ppo.iterations=3",
    "rl.ppo.micro_batch=4",
    "rl.ppo.rollout.max_new_tokens=6",
    "rl.ppo.eval_iterations=2",
    f"rl.ppo.eval_prompts={EVAL_PROMPTS}",
    f"rl.ppo.samples={EVAL_PROMPTS}",
    "rl.ppo.save_interval_iterations=1",
    "rl.ppo.optimizer.learning_rate=0.003",
    "rl.ppo.precision=fp32",
    "rl.ppo.stop_kl=100",
)


class Heard(Witness):
    """Keeps what was told; stops the process's work after an iteration when asked to."""

    def __init__(self, stop_after: int | None = None) -> None:
        super().__init__()
        self.iterations: list[IterationReport] = []
        self.rewards: list[RewardReport] = []
        self.samples: list[Sample] = []
        self._stop_after = stop_after

    def on_iteration(self, report: IterationReport) -> None:
        self.iterations.append(report)
        if len(self.iterations) == self._stop_after:
            raise KeyboardInterrupt

    def on_reward(self, report: RewardReport) -> None:
        self.rewards.append(report)

    def on_sample(self, sample: Sample) -> None:
        self.samples.append(sample)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("learned")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DREAMLM_HOME", str(folder / "home"))
        place = furnish(folder)
        place.train("easy")
        place.train("coin", pairs="coin")
        yield place


def learn(place: Place, name: str, judge: Path, *sets: str, stop_after: int | None = None) -> Heard:
    heard = Heard(stop_after)
    named = f"rl.learned_from={judge}"
    train_policy(PolicyRequest(place.folder / name, place.origin, sets=(*SETTINGS, named, *sets)), heard)
    return heard


def test_answers_earn_what_the_reward_model_says_of_them(place: Place) -> None:
    heard = learn(place, "policy", place.folder / "easy")
    assert heard.ends[0].reason == "finished"
    judge = load_reward_model(place.folder / "easy", "cpu")
    for report in heard.rewards:
        shown = [one for one in heard.samples if one.step == report.step]
        answers = [Answer(Prompt(one.prompt), (0,), (1,), one.text, ended=True) for one in shown]
        assert len(answers) == EVAL_PROMPTS
        scores = judge.score(answers)
        assert len({round(score, 4) for score in scores}) > 1
        assert report.reward == pytest.approx(sum(scores) / EVAL_PROMPTS, abs=1e-5)
        assert report.components == {"learned": pytest.approx(report.reward)}
    assert all(one.components.keys() == {"learned"} for one in heard.iterations)


def test_a_policy_learns_to_please_the_reward_model(place: Place) -> None:
    more = ("rl.ppo.iterations=12", "rl.ppo.answers=32", "rl.ppo.minibatch=8", "rl.ppo.eval_iterations=12")
    heard = learn(place, "pleasing", place.folder / "easy", *more, "rl.ppo.optimizer.learning_rate=0.01")
    rewards = [one.reward for one in heard.iterations]
    assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 0.2  # seen: 0.43


def test_a_learned_reward_is_mixed_with_the_measured_ones(place: Place) -> None:
    mixed = ("rl.scoring.learned=3", "rl.scoring.creativity=1", "rl.ppo.iterations=1")
    for report in learn(place, "mixed", place.folder / "easy", *mixed).iterations:
        parts = report.components
        assert report.reward == pytest.approx((3 * parts["learned"] + parts["creativity"]) / 4)


def test_a_reward_model_that_is_not_above_chance_is_refused_before_anything_is_kept(place: Place) -> None:
    with pytest.raises(NotAboveChance, match="is not above chance") as caught:
        learn(place, "refused", place.folder / "coin")
    assert caught.value.where == str(place.folder / "coin")
    run = place.folder / "refused"
    assert [path.name for path in run.rglob("*") if path.is_file() and path.suffix != ".lock"] == []
    assert learn(place, "refused", place.folder / "easy").ends[0].reason == "finished"


def test_a_run_that_was_cut_goes_on_although_its_judge_has_moved_away(place: Place) -> None:
    judge = place.folder / "judge"
    shutil.copytree(place.folder / "easy", judge)
    learn(place, "whole", judge)
    with pytest.raises(KeyboardInterrupt):
        learn(place, "cut", judge, stop_after=2)
    judge.rename(place.folder / "elsewhere")
    heard = Heard()
    train_policy(PolicyRequest(place.folder / "cut"), heard)
    assert heard.ends[0].reason == "finished"
    whole, cut = (read_snapshot(place.folder / name / "checkpoints" / "lm_current") for name in ("whole", "cut"))
    assert whole.state == cut.state
    for ours, theirs in ((cut.model, whole.model), (cut.heads, whole.heads), (cut.optimizer, whole.optimizer)):
        assert ours.keys() == theirs.keys()
        assert [name for name in theirs if not torch.equal(ours[name], theirs[name])] == []
