"""Two processes under DeepSpeed train one policy: to one result at every stage of ZeRO, and exactly when resumed."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from workplace import Workplace

from dreamlm.checkpoints.snapshot import read_snapshot

pytest.importorskip("deepspeed")
SETTINGS = (
    "rl.prompts.words=4",
    "rl.prompts.validation_fraction=0.3",
    "rl.ppo.answers=8",
    "rl.ppo.minibatch=8",
    "rl.ppo.micro_batch=2",
    "rl.ppo.epochs=2",
    "rl.ppo.rollout.max_new_tokens=6",
    "rl.ppo.eval_prompts=4",
    "rl.ppo.save_interval_iterations=1",
    "rl.ppo.optimizer.learning_rate=0.01",
    "rl.ppo.optimizer.epsilon=0.1",  # so that the sign of a gradient near zero does not decide a whole step
    "rl.ppo.precision=fp32",
    "rl.ppo.stop_kl=100",
)

Run = Callable[..., dict[str, Tensor]]


@pytest.fixture
def run(place: Workplace, trained: Callable[..., Path]) -> Run:
    base = trained("train.train_tokens=2048")

    def start(name: str, stage: int, iterations: int) -> dict[str, Tensor]:
        folder = place.folder / name
        sets = (*SETTINGS, f"rl.ppo.zero_stage={stage}", f"rl.ppo.iterations={iterations}")
        words = [word for one in sets for word in ("--set", one)]
        command = [sys.executable, "-m", "dreamlm.cli", "rl", "--from", base, "--run", folder, "--nproc", "2", *words]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        snapshot = read_snapshot(folder / "checkpoints" / "lm_current")
        assert snapshot.state["step"] == iterations
        return {**snapshot.model, **snapshot.heads, **snapshot.optimizer}

    return start


def test_a_resumed_run_comes_to_the_same_weights(run: Run) -> None:
    whole = run("whole", 3, 2)
    run("cut", 3, 1)
    again = run("cut", 3, 2)
    assert whole.keys() == again.keys()
    assert [name for name in whole if not torch.equal(whole[name], again[name])] == []


@pytest.mark.slow
def test_every_stage_comes_to_the_same_weights(run: Run) -> None:
    first, *others = [run(f"stage {stage}", stage, 2) for stage in (1, 0, 2, 3)]
    for other in others:
        for name, value in first.items():
            torch.testing.assert_close(other[name], value, rtol=1e-4, atol=2e-5, msg=name)
