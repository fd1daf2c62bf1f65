"""A policy whose training is killed, wherever and however often, ends as one whose training never stopped.

Kills come while answers are written, scored and read, between and inside updates, while snapshots are committed, during
evaluations and while metrics are written; `policy_worker` tells what a process is at.
"""

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

WORKER = Path(__file__).with_name("policy_worker.py")
ITERATIONS = 6
SETTINGS = (
    "rl.prompts.words=4",
    "rl.prompts.validation_fraction=0.3",
    "rl.ppo.answers=8",
    "rl.ppo.minibatch=4",
    "rl.ppo.micro_batch=2",
    "rl.ppo.epochs=2",
    f"rl.ppo.iterations={ITERATIONS}",
    "rl.ppo.rollout.max_new_tokens=6",
    "rl.ppo.eval_iterations=2",
    "rl.ppo.eval_prompts=6",
    "rl.ppo.save_interval_iterations=2",  # so that a kill costs up to two iterations
    "rl.ppo.optimizer.learning_rate=0.003",
    "rl.ppo.precision=fp32",
    "rl.ppo.stop_kl=100",
    "rl.ppo.kl.target=0.001",  # nats per token: the coefficient rises
    "rl.ppo.alarms.explained_variance=0.99",  # every third iteration is an alarm, which makes the steps smaller
    "rl.ppo.alarms.patience=3",
    "rl.ppo.alarms.backoffs=99",
)
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "thoughts": {"segment_length": 8, "modules": [{"type": "thought_stack", "thought_dims": [2, 2, 2]}]},
}
MOMENTS = ("draw", "score", "read", "update", "commit", "evaluate", "tell")
LONGEST_WAIT = 0.02
"""Seconds between the beginning of a moment and the kill: about as long as a moment lasts."""
TIMINGS = {"seconds", "rollout_tokens_per_second", "update_tokens_per_second"}

Kill = tuple[str, int, float]


class Worker:
    """Trains in children, and kills them when asked to."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def train(self, origin: Path, run: Path, kill: Kill | None = None, sets: Sequence[str] = SETTINGS) -> list[str]:
        """Train in a new process until it ends or is killed: how it ended, and what it was at, a letter each."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([str(origin), str(run), sets, kill]) + "\n")
        self._process.stdin.flush()
        answer: list[str] = json.loads(self._process.stdout.readline())
        return answer


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    home = tmp_path_factory.mktemp("home")
    environment = {**os.environ, "DREAMLM_HOME": str(home), "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    with subprocess.Popen(
        [sys.executable, str(WORKER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
    ) as process:
        yield Worker(process)
        process.kill()


class Unbroken:
    """A model, and the policy that it becomes when nothing stops its training."""

    def __init__(self, worker: Worker, folder: Path, kind: str) -> None:
        self._worker, self.origin, self.run = worker, folder / "origin", folder / "run"
        assert worker.train(write_preset(folder, kind), self.origin, sets=())[0] == "0"
        ended, came = worker.train(self.origin, self.run)
        assert ended == "0"
        self._often = {moment: came.count(moment[0]) for moment in MOMENTS}

    def last_kill(self, moment: str) -> Kill:
        """Just before the last of such moments."""
        return moment[0], self._often[moment], 0.0

    def some_kill(self, moment: str, numbers: random.Random) -> Kill:
        """At a random one of the first third of such moments: as it begins, or some time after."""
        count, wait = numbers.randint(1, 1 + self._often[moment] // 3), numbers.uniform(0.0, LONGEST_WAIT)
        return moment[0], count, numbers.choice((0.0, wait))

    def train(self, run: Path, kill: Kill | None = None) -> list[str]:
        return self._worker.train(self.origin, run, kill)


def write_preset(folder: Path, kind: str) -> Path:
    words = random.Random(0)
    lines = [" ".join(words.choice(["cat", "dog", "saw", "the", "a"]) for _ in range(40)) for _ in range(100)]
    (folder / "text.jsonl").write_text("\n".join(json.dumps({"text": line}) for line in lines))
    values = {
        "model": {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "seq_length": 24, **KINDS[kind]},
        "tokenizer": {"type": "bpe", "vocab_size": 270},
        "data": {"sources": [{"type": "jsonl", "paths": [str(folder / "text.jsonl")]}]},
        "train": {"train_tokens": 2048, "per_gpu_batch_size": 8, "precision": "fp32"},
    }
    (folder / "small.json").write_text(json.dumps(values))
    return folder / "small.json"


@pytest.fixture(scope="module", params=sorted(KINDS))
def unbroken(request: pytest.FixtureRequest, worker: Worker, tmp_path_factory: pytest.TempPathFactory) -> Unbroken:
    return Unbroken(worker, tmp_path_factory.mktemp(request.param), request.param)


def told(run: Path, kind: str) -> list[dict[str, Any]]:
    """Events of the metrics, without what the clock says."""
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [
        {name: value for name, value in event.items() if name not in TIMINGS}
        for event in events
        if event["event"] == kind
    ]


def report(run: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((run / "training_report.json").read_text())
    return {"end": {**values["end"], "seconds": 0.0}, "rewards": values["rewards"]}


def assert_same_run(run: Path, unbroken: Path) -> None:
    for kind in ("iteration", "reward", "sample"):
        assert told(run, kind) == told(unbroken, kind)
    assert report(run) == report(unbroken)
    snapshots = [folder / "checkpoints" / "lm_current" for folder in (run, unbroken)]
    ours, theirs = (json.loads((folder / "state.json").read_text()) for folder in snapshots)
    assert ours == theirs
    for name in ("model.safetensors", "heads.safetensors", "optimizer.safetensors"):
        ours, theirs = (load_file(folder / name) for folder in snapshots)
        assert ours.keys() == theirs.keys()
        assert [key for key in theirs if not np.array_equal(ours[key], theirs[key])] == [], name


def test_the_unbroken_run_has_everything_that_a_kill_could_lose(unbroken: Unbroken) -> None:
    assert [event["step"] for event in told(unbroken.run, "iteration")] == list(range(1, ITERATIONS + 1))
    assert [event["step"] for event in told(unbroken.run, "reward")] == [0, 2, 4, 6]
    state = json.loads((unbroken.run / "checkpoints" / "lm_current" / "state.json").read_text())
    assert state["prompt_cursor"] == state["moments"]["count"] == ITERATIONS * 8
    assert state["kl_coefficient"] > 0.1
    assert state["rate_factor"] == 0.25
    assert report(unbroken.run)["end"]["reason"] == "finished"


def test_a_kill_at_each_moment_changes_nothing(unbroken: Unbroken, tmp_path: Path) -> None:
    numbers = random.Random(0)
    for moment in numbers.sample(MOMENTS, len(MOMENTS)):
        ended, _ = unbroken.train(tmp_path, unbroken.some_kill(moment, numbers))
        assert ended == "killed", moment
    assert unbroken.train(tmp_path)[0] == "0"
    assert_same_run(tmp_path, unbroken.run)


@pytest.mark.parametrize("unbroken", ["plain"], indirect=True)
def test_what_was_told_before_the_first_snapshot_is_told_once(unbroken: Unbroken, tmp_path: Path) -> None:
    for count in (4, 5):  # before the second sample of the first evaluation, and before the save
        assert unbroken.train(tmp_path, ("t", count, 0.0))[0] == "killed"
    assert unbroken.train(tmp_path)[0] == "0"
    assert_same_run(tmp_path, unbroken.run)


@pytest.mark.parametrize("unbroken", ["plain"], indirect=True)
def test_a_kill_behind_the_last_snapshot_leaves_the_report_to_the_next_call(unbroken: Unbroken, tmp_path: Path) -> None:
    assert unbroken.train(tmp_path, unbroken.last_kill("tell"))[0] == "killed"
    assert unbroken.train(tmp_path)[0] == "0"
    assert_same_run(tmp_path, unbroken.run)


@pytest.mark.slow
def test_dozens_of_kills_at_random_moments_change_nothing(unbroken: Unbroken, tmp_path: Path) -> None:
    numbers = random.Random(1)
    run, kills = tmp_path / "0", 0
    while kills < 40:
        ended, _ = unbroken.train(run, unbroken.some_kill(MOMENTS[kills % len(MOMENTS)], numbers))
        if ended == "killed":
            kills += 1
        else:  # it finished before its time: begin again, the kills so far count
            assert ended == "0"
            assert_same_run(run, unbroken.run)
            run = tmp_path / str(kills)
    assert unbroken.train(run)[0] == "0"
    assert_same_run(run, unbroken.run)
