"""Logits or rewards that are not finite end a run on record, at a snapshot that is whole."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from workplace import Witness, Workplace

from dreamlm.checkpoints.snapshot import read_snapshot
from dreamlm.checkpoints.store import Store
from dreamlm.core.errors import TrainingFailed
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.rl.answer import Answer
from dreamlm.core.rl.rewards import mix
from dreamlm.core.training.hooks import IterationReport
from dreamlm.wiring import policy
from dreamlm.wiring.policy import train_policy
from dreamlm.wiring.policy_start import PolicyRequest

SETTINGS = (
    "rl.prompts.words=4",
    "rl.prompts.validation_fraction=0.3",
    "rl.ppo.answers=4",
    "rl.ppo.minibatch=4",
    "rl.ppo.micro_batch=4",
    "rl.ppo.epochs=1",
    "rl.ppo.iterations=5",
    "rl.ppo.rollout.max_new_tokens=4",
    "rl.ppo.eval_iterations=9",
    "rl.ppo.eval_prompts=2",
    "rl.ppo.save_interval_iterations=2",
    "rl.ppo.precision=fp32",
)


@pytest.fixture
def base(trained: Callable[..., Path]) -> Path:
    return trained("train.train_tokens=1024")


class Breaking(Witness):
    """Breaks something once so many iterations are done."""

    def __init__(self, after: int, how: Callable[[], None]) -> None:
        super().__init__()
        self._after, self._how = after, how

    def on_iteration(self, report: IterationReport) -> None:
        if report.step == self._after:
            self._how()


def begin(place: Workplace, base: Path, hook: Witness) -> TrainingFailed:
    with pytest.raises(TrainingFailed) as caught:
        train_policy(PolicyRequest(place.folder / "policy", base, sets=SETTINGS), hook)
    return caught.value


def assert_on_record(run: Path, hook: Witness, step: int) -> None:
    assert [(end.reason, end.step) for end in hook.ends] == [("failed", step)]
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert (last["event"], last["reason"], last["step"]) == ("end", "failed", step)
    assert json.loads((run / "training_report.json").read_text())["end"]["reason"] == "failed"


def goes_on(place: Workplace, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """The snapshot is the one that was named, and its weights are whole."""
    newest = Store(place.folder / "policy").latest()
    assert newest is not None
    assert (newest.record.step, newest.record.finite) == (step, True)
    assert all(bool(weight.isfinite().all()) for weight in read_snapshot(newest.path).model.values())
    monkeypatch.undo()
    monkeypatch.setenv("DREAMLM_HOME", str(place.folder / "home"))
    witness = Witness()
    train_policy(PolicyRequest(place.folder / "policy"), witness)
    assert [end.reason for end in witness.ends] == ["finished"]


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_reward_that_is_not_finite_ends_the_run_on_record(
    place: Workplace, base: Path, monkeypatch: pytest.MonkeyPatch, broken: float
) -> None:
    measured = mix.creativity

    def breaks() -> None:
        numbers["creativity"] = broken

    numbers: dict[str, float] = {}

    def creativity(answers: Sequence[Answer], **options: object) -> Sequence[float | None]:
        return [numbers.get("creativity", value) for value in measured(answers, **options)]  # type: ignore[arg-type, misc]

    monkeypatch.setattr(mix, "creativity", creativity)
    witness = Breaking(3, breaks)
    error = begin(place, base, witness)
    assert error.what == (
        f"the reward component creativity is {broken}, after iteration 3; "
        "the run is back at its last finite snapshot, iteration 2"
    )
    assert error.where.startswith("answer ")
    assert "rl.scoring" in error.hint
    assert_on_record(place.folder / "policy", witness, 3)
    goes_on(place, monkeypatch, step=2)


def test_logits_that_are_not_finite_end_the_run_on_record(
    place: Workplace, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights that broke unseen are saved, marked, and not gone on from."""
    models: list[DreamLM] = []
    build = policy.build_backend

    def kept(config, objective, *rest):  # type: ignore[no-untyped-def]
        models.append(objective.model)
        return build(config, objective, *rest)

    def breaks() -> None:
        with torch.no_grad():
            models[0].norm.weight.fill_(math.nan)

    monkeypatch.setattr(policy, "build_backend", kept)
    witness = Breaking(4, breaks)
    error = begin(place, base, witness)
    assert error.what == (
        "the policy's logits are not finite, after iteration 4; "
        "the run is back at its last finite snapshot, iteration 2"
    )
    assert "learning_rate" in error.hint
    assert [info.record.finite for info in Store(place.folder / "policy").snapshots() if info.record.step == 4] == [
        False
    ]
    assert_on_record(place.folder / "policy", witness, 4)
    goes_on(place, monkeypatch, step=2)


def test_a_model_that_is_broken_from_the_beginning_is_called_so(
    place: Workplace, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = policy.build_backend

    def broken(config, objective, *rest):  # type: ignore[no-untyped-def]
        with torch.no_grad():
            objective.model.norm.weight.fill_(math.nan)
        return build(config, objective, *rest)

    monkeypatch.setattr(policy, "build_backend", broken)
    error = begin(place, base, Witness())
    assert error.what == "the policy's logits are not finite, after iteration 0; no snapshot was saved yet"
    assert error.hint.startswith("the model that the run begins as is broken")


def test_what_is_not_finite_before_the_first_snapshot_leaves_none_and_says_so(
    place: Workplace, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mix, "creativity", lambda answers, seen: [math.nan] * len(answers))
    witness = Witness()
    error = begin(place, base, witness)
    assert error.what.endswith("after iteration 0; no snapshot was saved yet")
    assert_on_record(place.folder / "policy", witness, 0)
    assert Store(place.folder / "policy").latest() is None
