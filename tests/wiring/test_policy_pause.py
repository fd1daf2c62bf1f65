"""An alarm that pauses: the call ends with a snapshot and says how to go on, and going on changes nothing."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from workplace import Witness, Workplace

from dreamlm.checkpoints.snapshot import read_snapshot
from dreamlm.core.errors import Paused, ResumeMismatch, TrainingFailed
from dreamlm.wiring.policy import train_policy
from dreamlm.wiring.policy_start import PolicyRequest

ITERATIONS = 5
SETTINGS = (
    "rl.prompts.words=4",
    "rl.prompts.validation_fraction=0.3",
    "rl.ppo.answers=8",
    "rl.ppo.minibatch=8",
    "rl.ppo.micro_batch=2",
    "rl.ppo.epochs=2",
    f"rl.ppo.iterations={ITERATIONS}",
    "rl.ppo.rollout.max_new_tokens=6",
    "rl.ppo.eval_iterations=2",
    "rl.ppo.eval_prompts=4",
    "rl.ppo.optimizer.learning_rate=0.003",
    "rl.ppo.precision=fp32",
    "rl.ppo.stop_kl=100",
    "rl.ppo.alarms.patience=1",
    "rl.ppo.alarms.kl=0.0001",  # nats per token: every policy that has moved is an alarm
    "rl.ppo.alarms.backoffs=9",
)
PAUSE = "rl.ppo.alarms.pause=true"


@pytest.fixture
def base(trained: Callable[..., Path]) -> Path:
    return trained("train.train_tokens=2048")


def learn(place: Workplace, name: str, *sets: str, base: Path | None = None) -> Witness:
    witness = Witness()
    train_policy(PolicyRequest(place.folder / name, base, sets=(*SETTINGS, *sets) if base else sets), witness)
    return witness


def kept(run: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The state and all tensors of the newest snapshot."""
    snapshot = read_snapshot(run / "checkpoints" / "lm_current")
    return dict(snapshot.state), {**snapshot.model, **snapshot.heads, **snapshot.optimizer}


def assert_same_run(run: Path, whole: Path) -> None:
    (state, ours), (state_wanted, theirs) = kept(run), kept(whole)
    assert state == state_wanted
    assert ours.keys() == theirs.keys()
    assert [name for name in theirs if not torch.equal(ours[name], theirs[name])] == []


def test_a_run_that_pauses_at_each_alarm_comes_to_the_same_weights(place: Workplace, base: Path) -> None:
    said = learn(place, "whole", base=base).notices
    alarms = [int(found[1]) for notice in said if (found := re.match(r"alarm at iteration (\d+): ", notice))]
    pauses: list[tuple[int, int]] = []
    witness = Witness()
    while not witness.ends:
        try:
            witness = learn(place, "paused", PAUSE, base=base)
        except Paused as pause:
            pauses.append((pause.iteration, kept(place.folder / "paused")[0]["step"]))
    assert pauses == [(number, number) for number in alarms if number < ITERATIONS]
    assert len(pauses) > 1
    assert witness.ends[0].reason == "finished"
    assert_same_run(place.folder / "paused", place.folder / "whole")


def test_a_pause_says_where_it_stands_and_what_goes_on(place: Workplace, base: Path) -> None:
    witness = Witness()
    request = PolicyRequest(place.folder / "paused", base, sets=(*SETTINGS, PAUSE))
    with pytest.raises(Paused) as caught:
        train_policy(request, witness)
    state, _ = kept(place.folder / "paused")
    pause = caught.value
    assert (pause.iteration, pause.exit_code) == (state["step"], 3)
    assert (pause.learning_rate, pause.kl_coefficient) == (0.0015, state["kl_coefficient"])
    assert pause.what == (
        f"paused by an alarm at iteration {pause.iteration}: {pause.alarms[0]}; a snapshot was saved, and the run goes "
        f"on with the learning rate 0.0015 and the KL coefficient {state['kl_coefficient']:.3g}"
    )
    assert "nats per token from the reference" in pause.alarms[0]
    assert pause.hint.startswith("dreamlm rl ppo --run DIR goes on")
    assert [(end.reason, end.step) for end in witness.ends] == [("paused", pause.iteration)]
    report = json.loads((place.folder / "paused" / "training_report.json").read_text())
    assert report["end"]["reason"] == "paused"


def test_whether_to_pause_may_change_from_call_to_call_and_nothing_else_about_alarms(
    place: Workplace, base: Path
) -> None:
    with pytest.raises(Paused):
        learn(place, "paused", PAUSE, base=base)
    with pytest.raises(ResumeMismatch, match=r"rl\.ppo\.alarms\.kl"):
        learn(place, "paused", "rl.ppo.alarms.kl=2")
    assert learn(place, "paused", "rl.ppo.alarms.pause=false").ends[0].reason == "finished"


def test_the_alarm_after_the_last_back_off_is_a_failure_and_no_pause(place: Workplace, base: Path) -> None:
    with pytest.raises(TrainingFailed, match="the policy collapses"):
        learn(place, "paused", PAUSE, "rl.ppo.alarms.backoffs=0", base=base)


@pytest.mark.slow
def test_two_processes_pause_together_and_go_on(place: Workplace, base: Path) -> None:
    pytest.importorskip("deepspeed")

    def call(name: str, *options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "dreamlm.cli", "rl", "ppo", "--run", place.folder / name, "--nproc", "2"]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
        return subprocess.run([*command, *options], env=environment, capture_output=True, text=True, check=False)

    begin = ["--from", str(base), *(word for one in (*SETTINGS, "rl.ppo.iterations=4") for word in ("--set", one))]
    whole, paused = call("whole", *begin), call("paused", *begin, "--set", PAUSE)
    assert (whole.returncode, paused.returncode) == (0, 3), paused.stderr
    assert paused.stdout.startswith("paused: step ")
    assert re.search(r"paused by an alarm at iteration \d: the policy is ", paused.stderr)
    assert "help: dreamlm rl ppo --run DIR --nproc 2 goes on" in paused.stderr
    assert "ended first" not in paused.stderr
    assert "error:" not in paused.stderr
    while (again := call("paused")).returncode == 3:
        assert again.stdout.startswith("paused: step ")
    assert again.returncode == 0, again.stderr
    assert_same_run(place.folder / "paused", place.folder / "whole")
