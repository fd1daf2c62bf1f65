"""A run that is killed, wherever and however often, ends with the losses and weights of one that never stopped."""

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

WORKER = Path(__file__).with_name("resume_worker.py")
STEPS = 60


@pytest.fixture(scope="module")
def preset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model on two sources of which the smaller has an epoch of a few steps; every second step is saved."""
    folder = tmp_path_factory.mktemp("resume")
    words = random.Random(0)
    for name, documents in (("large", 300), ("small", 40)):
        lines = [
            " ".join(words.choice(["cat", "dog", "saw", "the", name]) for _ in range(40)) for _ in range(documents)
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(json.dumps({"text": line}) for line in lines))
    sources = [{"type": "jsonl", "name": name, "paths": [str(folder / f"{name}.jsonl")]} for name in ("large", "small")]
    values = {
        "model": {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "seq_length": 32, "dropout": 0.1},
        "tokenizer": {"type": "bpe", "vocab_size": 300},
        "data": {"sources": sources},
        "train": {
            "train_tokens": STEPS * 8 * 32,
            "per_gpu_batch_size": 4,
            "accumulation_steps": 2,
            "precision": "fp32",
            "optimizer": "muon",
            "eval_tokens": 4096,
            "validation_tokens": 500,
            "save_interval_steps": 2,
        },
        "generate": {"max_new_tokens": 4},
    }
    path = folder / "resume.json"
    path.write_text(json.dumps(values))
    return path


class Worker:
    """Trains in children, and ends them when asked to."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def train(
        self,
        run: Path,
        stop_after: float | None = None,
        number: int = signal.SIGKILL,
        kill_at: tuple[str, int] | None = None,
    ) -> str:
        """Train in a new process until it ends or gets the signal, seconds after training began; how it ended.

        kill_at: ("step", n) is SIGKILL just behind step n, ("save", n) behind the snapshot of step n.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([str(run), stop_after, number, kill_at]) + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()


@contextmanager
def launched(preset: Path) -> Iterator[Worker]:
    """A worker for runs of a preset, with a home beside it."""
    environment = {**os.environ, "DREAMLM_HOME": str(preset.parent / "home"), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, str(WORKER), str(preset)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        text=True,
    ) as process:
        yield Worker(process)
        assert process.stdin is not None
        process.stdin.close()
        process.wait(timeout=30)


@pytest.fixture(scope="module")
def worker(preset: Path) -> Iterator[Worker]:
    with launched(preset) as worker:
        yield worker


@pytest.fixture(scope="module")
def unbroken(worker: Worker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("unbroken")
    assert worker.train(run) == "0"
    return run


def events(run: Path, kind: str) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["nll"]) for line in lines if line["event"] == kind]


def assert_same_run(run: Path, unbroken: Path) -> None:
    assert events(run, "step") == events(unbroken, "step")
    assert events(run, "evaluation") == events(unbroken, "evaluation")
    for name in ("model.safetensors", "optimizer.safetensors"):
        ours, theirs = (load_file(folder / "checkpoints" / "lm_current" / name) for folder in (run, unbroken))
        assert ours.keys() == theirs.keys()
        assert all(np.array_equal(ours[key], theirs[key]) for key in theirs), name


def test_the_reference_crosses_epochs_and_evaluates(unbroken: Path) -> None:
    state = json.loads((unbroken / "checkpoints" / "lm_current" / "state.json").read_text())
    steps = events(unbroken, "step")
    assert [step for step, _ in steps] == list(range(1, STEPS + 1))
    assert steps[-1][1] < steps[0][1] - 0.5
    assert len(events(unbroken, "evaluation")) >= 3
    assert state["cursor"]["drawn"] == [STEPS * 4, STEPS * 4]


def test_twenty_kills_at_random_moments_change_nothing(worker: Worker, unbroken: Path, tmp_path: Path) -> None:
    """SIGKILL between 0 and 0.3 s after training began or resumed: in steps, saves, rotations and evaluations."""
    moments = random.Random(1)
    kills = 0
    while kills < 20:
        ended = worker.train(tmp_path, stop_after=moments.uniform(0.0, 0.3))
        if ended == "0":  # it finished before its time: begin again, the kills so far count
            assert_same_run(tmp_path, unbroken)
            tmp_path = tmp_path / "again"
            continue
        assert ended == "killed"
        kills += 1
    assert worker.train(tmp_path) == "0"
    assert_same_run(tmp_path, unbroken)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_polite_signal_loses_no_step_and_changes_nothing(
    worker: Worker, unbroken: Path, tmp_path: Path, number: int
) -> None:
    assert worker.train(tmp_path, stop_after=0.1, number=number) == "1"
    stopped_at = events(tmp_path, "step")[-1][0]
    state = json.loads((tmp_path / "checkpoints" / "lm_current" / "state.json").read_text())
    assert 0 < state["step"] == stopped_at < STEPS
    assert worker.train(tmp_path) == "0"
    assert_same_run(tmp_path, unbroken)


def test_a_finished_run_says_so_and_stays_as_it_is(worker: Worker, unbroken: Path) -> None:
    before = (unbroken / "checkpoints" / "lm_current" / "manifest.json").read_bytes()
    assert worker.train(unbroken) == "0"
    assert (unbroken / "checkpoints" / "lm_current" / "manifest.json").read_bytes() == before
