"""Two processes under DeepSpeed train one policy: to the weights of one process, at every stage of ZeRO.

What is not finite in one of them ends both, on record. The processes are started once; each test looks at some of their
runs.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from two_ranks import run_in_two_ranks
from workplace import Workplace, furnish

from dreamlm.checkpoints.snapshot import read_snapshot
from dreamlm.core.training.hooks import Hook
from dreamlm.wiring.policy import train_policy
from dreamlm.wiring.policy_start import PolicyRequest

pytest.importorskip("deepspeed")
WORKER = Path(__file__).with_name("policy_ranks_worker.py")
TIMEOUT_SECONDS = 400
SETTINGS = (
    "rl.prompts.words=4",
    "rl.prompts.validation_fraction=0.3",
    "rl.ppo.answers=8",
    "rl.ppo.minibatch=8",  # all answers of an iteration, or each process would draw its own mini-batches
    "rl.ppo.micro_batch=2",
    "rl.ppo.epochs=2",
    "rl.ppo.iterations=2",
    "rl.ppo.rollout.max_new_tokens=6",
    "rl.ppo.eval_prompts=4",
    "rl.ppo.save_interval_iterations=1",
    "rl.ppo.optimizer.learning_rate=0.01",
    "rl.ppo.optimizer.epsilon=0.1",  # so that the sign of a gradient near zero does not decide a whole step
    "rl.ppo.precision=fp32",
    "rl.ppo.stop_kl=100",
)
STAGES = (0, 1, 2, 3)
FAILING = ("rl.ppo.iterations=4", "rl.ppo.alarms.pause=true")
THINKING = ("rl.ppo.precision=bf16", "rl.ppo.rollout.max_new_tokens=24", "rl.ppo.epochs=1")
ORDERS: list[tuple[str, str, tuple[str, ...], str]] = [
    *((f"stage {stage}", "run", (*SETTINGS, f"rl.ppo.zero_stage={stage}"), "") for stage in STAGES),
    ("cut", "run", (*SETTINGS, "rl.ppo.zero_stage=3", "rl.ppo.iterations=1"), ""),
    ("cut", "run", ("rl.ppo.iterations=2",), ""),
    *((f"thinking {stage}", "thinking", (*SETTINGS, *THINKING, f"rl.ppo.zero_stage={stage}"), "") for stage in (0, 3)),
    ("logits", "run", (*SETTINGS, *FAILING, "rl.ppo.zero_stage=3"), "logits"),
    ("reward", "run", (*SETTINGS, *FAILING), "reward"),
    ("loss", "run", (*SETTINGS, *FAILING), "loss"),
    *(
        (f"gradient {stage}", "run", (*SETTINGS, *FAILING, f"rl.ppo.zero_stage={stage}"), "gradient")
        for stage in STAGES
    ),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workplace]:
    """Where two processes have made all policies of `ORDERS`, and one the policy `alone`."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("ranks")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DREAMLM_HOME", str(folder / "home"))
        place = furnish(folder)
        place.train(folder / "run", "train.train_tokens=2048")
        thoughts = ("model.segment_length=8", 'model.modules=[{"type": "thought_stack"}]')
        place.train(folder / "thinking", "train.train_tokens=2048", *thoughts)
        train_policy(PolicyRequest(folder / "alone", folder / "run", sets=SETTINGS), Hook())
        (folder / "orders.json").write_text(json.dumps(ORDERS))
        run_in_two_ranks(WORKER, folder, seconds=TIMEOUT_SECONDS)
        yield place


def tensors(run: Path, iterations: int = 2) -> dict[str, Tensor]:
    snapshot = read_snapshot(run / "checkpoints" / "lm_current")
    assert snapshot.state["step"] == iterations
    return {**snapshot.model, **snapshot.heads, **snapshot.optimizer}


def ends(place: Workplace, name: str) -> list[list[str] | None]:
    """How a run ended on each rank: by which error, saying what."""
    return [json.loads((place.folder / f"rank{rank}.json").read_text())[name] for rank in (0, 1)]


def last_event(run: Path) -> dict[str, Any]:
    last: dict[str, Any] = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    return last


@pytest.mark.parametrize("stage", STAGES)
def test_two_processes_come_to_the_weights_of_one_at_every_stage(place: Workplace, stage: int) -> None:
    ours, theirs = tensors(place.folder / f"stage {stage}"), tensors(place.folder / "alone")
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-4, atol=2e-5, msg=name)
    before = read_snapshot(place.folder / "run" / "checkpoints" / "lm_current").model
    assert [name for name in before if torch.allclose(before[name], theirs[name], rtol=1e-4, atol=2e-5)] == []


def test_a_resumed_run_comes_to_the_same_weights(place: Workplace) -> None:
    whole, again = tensors(place.folder / "stage 3"), tensors(place.folder / "cut")
    assert whole.keys() == again.keys()
    assert [name for name in whole if not torch.equal(whole[name], again[name])] == []


@pytest.mark.parametrize("stage", [0, 3])
def test_models_with_modules_whose_answers_are_of_different_lengths_learn_in_bf16(place: Workplace, stage: int) -> None:
    """Passes of different lengths exchange in the same order, when answers are read and when policies learn."""
    assert ends(place, f"thinking {stage}") == [None, None]
    assert tensors(place.folder / f"thinking {stage}")


@pytest.mark.parametrize(
    ("fault", "what"),
    [("logits", "the policy's logits are not finite"), ("reward", "the reward component creativity is nan")],
)
def test_answers_of_one_process_that_are_not_finite_end_both_on_record(place: Workplace, fault: str, what: str) -> None:
    said = f"{what}, after iteration 1; the run is back at its last finite snapshot, iteration 1"
    assert ends(place, fault) == [["TrainingFailed", said]] * 2
    last = last_event(place.folder / fault)
    assert (last["event"], last["reason"], last["step"]) == ("end", "failed", 1)
    assert all(bool(weight.isfinite().all()) for weight in tensors(place.folder / fault, 1).values())


@pytest.mark.parametrize("fault", ["loss", *(f"gradient {stage}" for stage in STAGES)])
def test_updates_of_one_process_that_are_not_finite_are_made_by_none_and_pause_both(
    place: Workplace, fault: str
) -> None:
    first, second = ends(place, fault)
    assert first == second
    assert first is not None
    assert first[0] == "Paused"
    assert "at iteration 2: not finite: the loss or gradient of 100% of the updates" in first[1]
    last = last_event(place.folder / fault)
    assert (last["event"], last["reason"], last["step"]) == ("end", "paused", 2)
    state = read_snapshot(place.folder / fault / "checkpoints" / "lm_current").state
    assert (state["updates"], state["rate_factor"]) == (2, 0.5)
    assert all(bool(weight.isfinite().all()) for weight in tensors(place.folder / fault).values())
