"""Two processes under DeepSpeed fit one reward model: to the weights of one process, at every stage of ZeRO."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from judges import Place, furnish
from torch import Tensor
from workplace import Witness

from dreamlm.checkpoints.snapshot import read_snapshot
from dreamlm.core.training.hooks import StepReport

pytest.importorskip("deepspeed")
pytestmark = pytest.mark.slow
PAIRS_PER_STEP, MICRO_PAIRS = 20, 5
SETTINGS = (
    f"rl.reward_model.pairs_per_step={PAIRS_PER_STEP}",
    f"rl.reward_model.pairs_per_micro_batch={MICRO_PAIRS}",
    "rl.reward_model.optimizer.epsilon=0.01",  # so that the sign of a gradient near zero does not decide a whole step
)
TIMEOUT_SECONDS = 240
CRAMPED = Path(__file__).with_name("cramped_ranks.py")

Start = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("reward")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DREAMLM_HOME", str(folder / "home"))
        yield furnish(folder)


@pytest.fixture(scope="module")
def alone(place: Place) -> Path:
    place.train("alone", *SETTINGS)
    return place.folder / "alone"


@pytest.fixture(scope="module")
def start(place: Place) -> Start:
    def run(
        name: str, *sets: str, program: tuple[str, ...] = ("-m", "dreamlm.cli"), interrupt_at: int | None = None
    ) -> subprocess.CompletedProcess[str]:
        words = [word for one in (*SETTINGS, *sets) for word in ("--set", one)]
        options = ["--from", place.origin, "--run", place.folder / name, "--preset", place.folder / "easy.json"]
        command = [sys.executable, *program, "rl", "reward", *options, "--nproc", "2", "--json", *words]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
        pipe = subprocess.PIPE
        with subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True) as process:
            if interrupt_at is not None:
                wait_for_step(place.folder / name, interrupt_at)
                process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=TIMEOUT_SECONDS)
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    return run


def wait_for_step(run: Path, step: int) -> None:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not (run / "metrics.jsonl").exists() or len(events(run, "step")) < step:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def tensors(run: Path) -> dict[str, Tensor]:
    snapshot = read_snapshot(run / "checkpoints" / "lm_current")
    return {**snapshot.model, **snapshot.heads, **snapshot.optimizer}


def events(run: Path, kind: str) -> list[dict[str, Any]]:
    """Whole lines only: the last one may be on its way."""
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    return [event for line in lines if line.endswith("\n") and (event := json.loads(line))["event"] == kind]


def assert_same_run(run: Path, whole: Path) -> None:
    ours, theirs = tensors(run), tensors(whole)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-3, atol=2e-5, msg=name)
    for mine, yours in zip(events(run, "step"), events(whole, "step"), strict=True):
        assert mine["nll"] == pytest.approx(yours["nll"], rel=1e-4, abs=1e-6)
        assert mine["tokens"] == yours["tokens"]
        assert mine["probes"].keys() == yours["probes"].keys()
        for name, values in yours["probes"].items():
            assert mine["probes"][name] == pytest.approx(values, rel=1e-3, abs=1e-4), name
    for mine, yours in zip(events(run, "preference"), events(whole, "preference"), strict=True):
        assert (mine["step"], mine["pairs"]) == (yours["step"], yours["pairs"])
        assert mine["loss"] == pytest.approx(yours["loss"], rel=1e-4)


def test_the_last_step_of_an_epoch_does_not_divide(alone: Path) -> None:
    """Or the tests below would not see what becomes of it."""
    pairs = sum(one["rl/pairs"] for one in []) or train_pairs(alone)
    micro_batches = -(-(pairs % PAIRS_PER_STEP) // MICRO_PAIRS)
    assert micro_batches % 2 == 1


def train_pairs(run: Path) -> int:
    return 150 - json.loads((run / "reward_report.json").read_text())["pairs"]


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_two_processes_learn_what_one_learns(place: Place, alone: Path, start: Start, stage: int) -> None:
    done = start(f"stage {stage}", f"rl.reward_model.zero_stage={stage}")
    assert done.returncode == 0, done.stderr
    assert_same_run(place.folder / f"stage {stage}", alone)
    assert json.loads(done.stdout)["pairs"] == json.loads((alone / "reward_report.json").read_text())["pairs"]


class Cut(Witness):
    def on_step(self, report: StepReport) -> None:
        if report.step == 5:
            raise KeyboardInterrupt


def test_a_run_moves_from_one_process_to_two(place: Place, alone: Path, start: Start) -> None:
    with pytest.raises(KeyboardInterrupt):
        place.train("moved", *SETTINGS, witness=Cut())
    done = start("moved", "rl.reward_model.zero_stage=3")
    assert done.returncode == 0, done.stderr
    assert "training resumes at step 4" in done.stderr
    assert_same_run(place.folder / "moved", alone)


def test_an_interrupted_run_saves_and_comes_to_the_same_weights_to_the_last_bit(place: Place, start: Start) -> None:
    assert start("whole").returncode == 0
    stopped = start("stopped", interrupt_at=3)
    assert (stopped.returncode, stopped.stdout) == (130, "")
    assert "a snapshot was saved" in stopped.stderr
    saved = read_snapshot(place.folder / "stopped" / "checkpoints" / "lm_current").state["step"]
    assert 3 <= saved < read_snapshot(place.folder / "whole" / "checkpoints" / "lm_current").state["step"]
    again = start("stopped")
    assert again.returncode == 0, again.stderr
    assert f"training resumes at step {saved}:" in again.stderr
    ours, theirs = (tensors(place.folder / name) for name in ("stopped", "whole"))
    assert ours.keys() == theirs.keys()
    assert [name for name in theirs if not torch.equal(ours[name], theirs[name])] == []


def test_a_process_without_memory_restarts_all_with_half_the_pairs_and_the_same_steps(
    place: Place, start: Start
) -> None:
    sizes = ("rl.reward_model.pairs_per_step=16", "rl.reward_model.pairs_per_micro_batch=4")
    place.train("roomy", *SETTINGS, *sizes)
    done = start("cramped", *sizes, program=(str(CRAMPED), "6", "4"))
    assert done.returncode == 0, done.stderr
    said = done.stderr.splitlines()
    assert [line for line in said if "memory" in line] == [
        "out of memory: micro-batch 4 -> 2 pairs, accumulation x2; the 2 processes start again from the newest snapshot"
    ]
    assert any(line.startswith("training resumes at step 2:") for line in said)
    assert not any("Traceback" in line or line.startswith("error:") for line in said)
    run, roomy = place.folder / "cramped", place.folder / "roomy"
    assert read_snapshot(run / "checkpoints" / "lm_current").state["micro_pairs"] == 2
    for mine, yours in zip(events(run, "step"), events(roomy, "step"), strict=True):
        assert mine["nll"] == pytest.approx(yours["nll"], rel=1e-4, abs=1e-6)


def test_shares_that_do_not_come_out_even_are_a_mistake(place: Place, start: Start) -> None:
    for change, where in (("pairs_per_step=9", "pairs_per_step"), ("pairs_per_micro_batch=4", "pairs_per_micro_batch")):
        done = start("uneven", f"rl.reward_model.{change}")
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("error: 2 processes cannot share the")
        assert f"at: rl.reward_model.{where}\n" in done.stderr
        assert not (place.folder / "uneven" / "checkpoints").exists()
