"""What is shown of long work: exact lines from a stub clock and hand-made reports."""

import errno
import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from terminal import Terminal

from dreamlm.cli.console import Console
from dreamlm.cli.live import JsonTraining, LiveTraining
from dreamlm.cli.live_line import LiveLine, PlainLine, count, duration
from dreamlm.cli.progress import PreparationProgress
from dreamlm.core.training.hooks import (
    EvaluationReport,
    RewardReport,
    RunEnd,
    RunStart,
    Sample,
    StagePlace,
    StepReport,
)


class Clock:
    """A clock that the test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Shown(LiveLine):
    """Keeps what was shown."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.shares: list[float | None] = []

    def show(self, text: str, share: float | None = None) -> None:
        self.texts.append(text)
        self.shares.append(share)

    def print_above(self, text: str) -> None:
        raise AssertionError("messages go through the console")

    def close(self) -> None: ...


def step(number: int, **changes: Any) -> StepReport:
    values: dict[str, Any] = {
        "step": number, "tokens": number * 1000, "nll": 4.5678, "objectives": {"causal": 4.6}, "gradient_norm": 1.0,
        "learning_rate": 1e-3, "applied": True, "tokens_per_second": 500.0, "mfu": None, "seconds": 2.0,
    }  # fmt: skip
    return StepReport(**{**values, **changes})


start = RunStart(0, 10, 0, 10_000, 1000, 3_210_000, 512, "fp32", "cpu", 1, False)


def test_a_step_shows_loss_rate_speed_and_the_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    line = Shown()
    live = LiveTraining(Console(), line)
    live.on_start(start)
    live.on_step(step(4))
    live.on_step(step(5, mfu=0.523, applied=False))
    assert line.texts == [
        "step 4/10  loss 4.568  lr 1.00e-03  500 tokens/s  0:12 left",
        "step 5/10  loss 4.568  lr 1.00e-03  500 tokens/s  MFU 52%  0:10 left  skipped",
    ]
    assert line.shares == [0.4, 0.5]
    assert capsys.readouterr().err == (
        "training starts: 3.21M parameters, 10.0k tokens in 10 steps of 1,000, fp32 on cpu\n"
    )


def test_a_step_shows_its_stage_and_how_much_of_it_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    line = Shown()
    live = LiveTraining(Console(), line)
    live.on_start(replace(start, step=1999, planned_steps=9000, resumed=True, stage=StagePlace("hops", 2, 3, 4000)))
    live.on_step(step(2000, stage=StagePlace("hops", 2, 3, 4000)))
    live.on_step(step(4001, stage=StagePlace("causal", 3, 3, None)))
    assert [text.partition("  loss")[0] for text in line.texts] == [
        "step 2,000/9,000  stage hops 2/3, 2,000 steps left",
        "step 4,001/9,000  stage causal 3/3",
    ]
    assert capsys.readouterr().err.startswith("training resumes at step 1999 in stage hops: ")
    JsonTraining(Console(as_json=True)).on_step(step(1, stage=StagePlace("hops", 2, 3, 4000)))
    event = json.loads(capsys.readouterr().out)
    assert event["stage"] == {"name": "hops", "number": 2, "of": 3, "last_step": 4000}


def test_milestones_go_to_stderr_and_the_outcome_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    live = LiveTraining(Console(), Shown())
    live.on_evaluation(EvaluationReport(20, 100, 3.2, 24.53253, 1.6234, {}, True))
    live.on_sample(Sample(20, "Once", " upon\na  time"))
    live.on_end(RunEnd("finished", 20, 20_000, 61.2, 3.5, 3.2, 1.6234))
    captured = capsys.readouterr()
    assert captured.err == (
        "step 20: held-out loss 3.200, perplexity 24.53, 1.623 bits per byte, the best so far\n"
        "step 20: it writes: Once upon a time\n"
    )
    assert (
        captured.out == "finished: step 20, 20.0k tokens, 1:01, loss 3.500, held-out loss 3.200, 1.623 bits per byte\n"
    )


def test_a_bound_is_called_one_and_told_with_its_error(capsys: pytest.CaptureFixture[str]) -> None:
    exact = EvaluationReport(20, 100, 3.2, 24.53253, 1.6234, {}, True)
    end = RunEnd("finished", 20, 20_000, 61.2, 3.5, 3.2, 1.6234)
    bound = replace(exact, is_bound=True, monte_carlo_error=0.0213)
    live = LiveTraining(Console(), Shown())
    live.on_evaluation(bound)
    live.on_end(replace(end, is_bound=True))
    captured = capsys.readouterr()
    assert captured.err == (
        "step 20: held-out loss at most 3.200 +-0.021, perplexity at most 24.53, at most 1.623 bits per byte, "
        "the best so far\n"
    )
    assert captured.out.endswith("loss 3.500, held-out loss at most 3.200, at most 1.623 bits per byte\n")
    lines = JsonTraining(Console(as_json=True))
    for evaluation, ended in ((exact, end), (bound, replace(end, is_bound=True))):
        lines.on_evaluation(evaluation)
        lines.on_end(ended)
    plain, plain_end, bounded, bounded_end = map(json.loads, capsys.readouterr().out.splitlines())
    assert bounded == {**plain, "is_bound": True, "monte_carlo_error": 0.0213}
    assert bounded_end == {**plain_end, "is_bound": True}
    assert not {"is_bound", "monte_carlo_error"} & (plain.keys() | plain_end.keys())


def test_json_events_are_strict_json_even_when_a_loss_is_not_finite(capsys: pytest.CaptureFixture[str]) -> None:
    live = JsonTraining(Console(as_json=True))
    live.on_start(start)
    live.on_step(step(1, nll=float("nan")))
    live.on_notice("a remark")
    captured = capsys.readouterr()
    first, second = (json.loads(line, parse_constant=pytest.fail) for line in captured.out.splitlines())
    assert (first["event"], first["parameters"]) == ("start", 3_210_000)
    assert (second["event"], second["step"], second["nll"]) == ("step", 1, "nan")
    assert captured.err == "a remark\n"


def test_without_a_terminal_a_line_comes_every_ten_seconds() -> None:
    clock, stream = Clock(), io.StringIO()
    line = PlainLine(stream, clock)
    for second in range(0, 31):
        clock.now = float(second)
        line.show(f"at {second}")
    assert stream.getvalue() == "at 10\nat 20\nat 30\n"


def test_preparation_shows_rates_and_the_time_left_of_its_stage() -> None:
    clock, line = Clock(), Shown()
    progress = PreparationProgress(Console(), line, clock)
    progress.stage("read", None)
    clock.now = 2.0
    progress.advance(5_000_000)
    progress.stage("tokenise", 40_000_000)
    clock.now = 4.0
    progress.advance(10_000_000, 2_500_000)
    assert line.texts == [
        "read",
        "read  5.00MB  2.5 MB/s",
        "tokenise  0%",
        "tokenise  25%  10.0MB  5.0 MB/s  1.25M tokens/s  0:06 left",
    ]
    assert line.shares == [None, None, 0.0, 0.25]


def test_a_terminal_gets_one_line_that_changes_and_notices_above_it(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    console = Console()
    with console.live() as line:
        line.show("half way", 0.5)
        console.notice("a remark")
        line.show("nearly", 0.9)
    text = screen.getvalue()
    assert "a remark\n" in text.replace("\r", "")
    assert "nearly" in text
    assert "\x1b[3" not in text, "a colour, in spite of NO_COLOR"


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (950, "950"), (1000, "1.00k"), (12_345, "12.3k"), (456_789, "457k"), (2.5e9, "2.50G")],
)
def test_counts_have_three_digits(number: float, text: str) -> None:
    assert count(number) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (59.6, "1:00"), (725, "12:05"), (11_220, "3:07:00")])
def test_durations_read_like_a_clock(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_training_goes_on_when_nobody_reads_its_events(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    told: list[Any] = []

    def gone(value: Any) -> None:
        told.append(value)
        raise BrokenPipeError(32, "Broken pipe")

    console = Console(as_json=True)
    monkeypatch.setattr(console, "json_line", gone)
    live = JsonTraining(console)
    live.on_start(start)
    live.on_step(step(1))
    assert len(told) == 1
    assert (
        capsys.readouterr().err == "nobody reads stdout any more; training goes on, and metrics.jsonl has every step\n"
    )


def test_training_goes_on_while_the_disk_behind_its_events_is_full(
    monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    told: list[Any] = []

    def full(value: Any) -> None:
        told.append(value)
        if len(told) < 3:
            raise OSError(errno.ENOSPC, "No space left on device")

    console = Console(as_json=True)
    monkeypatch.setattr(console, "json_line", full)
    live = JsonTraining(console)
    for number in range(4):
        live.on_step(step(number))
    assert len(told) == 4
    assert capsys.readouterr().err == (
        "the disk behind stdout is full; training goes on, and metrics.jsonl has every step\n"
    )


PROGRAM = """
import os, sys
from dreamlm.cli.app import _flushed
from dreamlm.cli.console import Console
console = Console()
with console.live() as line:
    for number in range(3):
        console.notice("above the line")
console.notice("behind the line")
os.write(int(sys.argv[1]), b"worked")
sys.exit(_flushed(7))
"""


def test_what_is_said_on_the_side_ends_nothing_when_its_reader_is_gone() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    assert _told_to(writing) == (7, b"worked")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_what_is_said_on_the_side_ends_nothing_when_its_disk_is_full() -> None:
    assert _told_to(os.open("/dev/full", os.O_WRONLY)) == (7, b"worked")


def _told_to(stderr: int) -> tuple[int, bytes]:
    """Exit code, and what was left in another file, of a command whose stderr is the descriptor."""
    reading, writing = os.pipe()
    command = [sys.executable, "-c", PROGRAM, str(writing)]
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(command, stderr=stderr, pass_fds=[writing], env=buffered, check=False)
    for descriptor in (stderr, writing):
        os.close(descriptor)
    left = os.read(reading, 100)
    os.close(reading)
    return done.returncode, left


def test_the_components_of_a_reward_stand_beside_it(capsys: pytest.CaptureFixture[str]) -> None:
    report = RewardReport(3, 100, 0.5, (0.4, 0.6), {"coherence": 0.25}, 0.1, best=True)
    JsonTraining(Console(as_json=True)).on_reward(report)
    event = json.loads(capsys.readouterr().out)
    assert (event["event"], event["reward"], event["coherence"]) == ("reward", 0.5, 0.25)
    assert "components" not in event
