"""Starting ranks: every option reaches them as it was typed, and the exit code comes back."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import typer

from dreamlm.cli.ranks import as_a_rank, command_line
from dreamlm.core.errors import MicroBatchTooLarge
from dreamlm.core.training.backend import launch as launching
from dreamlm.core.training.backend.launch import Ended


def test_options_are_written_as_typed() -> None:
    words = command_line(
        {"--preset": "tiny", "--run": Path("a b"), "--corpus": None},
        ["x=1", "y=[1, 2]"],
        {"--json": True, "--x": False},
    )
    assert words == ["--preset", "tiny", "--run", "a b", "--set", "x=1", "--set", "y=[1, 2]", "--json"]


@pytest.mark.parametrize(
    ("code", "output", "said"),
    [(0, "", ""), (1, "it broke", "rank 1 ended first, with exit code 1; its last words:\nit broke\n"), (143, "", "")],
)
def test_nproc_starts_the_same_command_and_ends_as_it_did(
    cli: Any, monkeypatch: pytest.MonkeyPatch, code: int, output: str, said: str
) -> None:
    started: list[Any] = []

    def launch(command: list[str], processes: int) -> Ended:
        started.append((command, processes))
        return Ended(code, 1 if code else None, output)

    monkeypatch.setattr(launching, "launch", launch)
    outcome = cli("train", "--preset", "tiny", "--nproc", "2", "--seed", "4", "--set", "train.zero_stage=3")
    assert (outcome.code, outcome.out, outcome.err) == (code, "", said)
    words = ["--preset", "tiny", "--run", "runs/tiny", "--set", "train.zero_stage=3", "--set", "train.seed=4"]
    assert started == [([sys.executable, "-m", "dreamlm.cli", "train", *words], 2)]


def test_a_reward_model_is_trained_in_several_processes_too(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Any] = []

    def launch(command: list[str], processes: int) -> Ended:
        started.append((command[3:], processes))
        return Ended(0, None, "")

    monkeypatch.setattr(launching, "launch", launch)
    options = ("--from", "runs/a", "--run", "runs/b", "--preset", "tiny")
    outcome = cli("rl", "reward", *options, "--nproc", "3", "--seed", "4", "--json")
    assert (outcome.code, outcome.out, outcome.err) == (0, "", "")
    assert started == [(["rl", "reward", *options, "--set", "rl.reward_model.seed=4", "--json"], 3)]


def out_of_memory(rows: int, fewer: int, signal_number: int = 0) -> Ended:
    error = MicroBatchTooLarge(rows, fewer, hint="")
    return Ended(75, 1, "", json.dumps({"rows": error.fewer, "remedy": error.remedy}), signal_number)


def test_ranks_without_memory_are_started_again_with_fewer_rows_until_they_fit(
    cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = iter([out_of_memory(6, 3), out_of_memory(3, 1), Ended(0, None, "")])
    started: list[Any] = []

    def launch(command: list[str], processes: int, environment: Mapping[str, str] = MappingProxyType({})) -> Ended:
        started.append((command, dict(environment)))
        return next(ends)

    monkeypatch.setattr(launching, "launch", launch)
    outcome = cli("train", "--preset", "tiny", "--nproc", "2")
    assert (outcome.code, outcome.out) == (0, "")
    assert outcome.err.splitlines() == [
        "out of memory: micro-batch 6 -> 3 rows, accumulation x2; the 2 processes start again from the newest snapshot",
        "out of memory: micro-batch 3 -> 1 rows, accumulation x3; the 2 processes start again from the newest snapshot",
    ]
    assert [told for _, told in started] == [{}, {"DREAMLM_MICRO_ROWS": "3"}, {"DREAMLM_MICRO_ROWS": "1"}]
    assert len({tuple(command) for command, _ in started}) == 1


def test_ranks_that_were_asked_to_stop_are_not_started_again(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launching, "launch", lambda command, processes: out_of_memory(8, 4, signal_number=15))
    outcome = cli("train", "--preset", "tiny", "--nproc", "2")
    assert outcome.code == 143
    assert outcome.err == "stopped while it ran out of memory; the same command goes on from the newest snapshot\n"


@pytest.mark.parametrize("launched", [True, False])
def test_a_rank_without_memory_is_silent_only_for_a_launcher(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, launched: bool
) -> None:
    monkeypatch.delenv(launching.NOTE, raising=False)
    if launched:
        monkeypatch.setenv(launching.NOTE, str(tmp_path / "note"))
    with pytest.raises(typer.Exit if launched else MicroBatchTooLarge) as caught, as_a_rank():
        raise MicroBatchTooLarge(8, 4, hint="")
    assert caught.value.exit_code == 75
    if launched:
        assert json.loads((tmp_path / "note").read_text())["rows"] == 4


def test_a_mistake_in_the_preset_is_found_before_any_rank_starts(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launching, "launch", lambda command, processes: pytest.fail("a rank was started"))
    outcome = cli("train", "--preset", "tiny", "--nproc", "2", "--set", "train.seed=-1")
    assert outcome.code == 2
    assert "train.seed: must be at least 0, not -1" in outcome.err


def test_the_option_that_the_deepspeed_launcher_adds_is_understood(cli: Any) -> None:
    outcome = cli("--local_rank=1", "train", "--preset", "tinny")
    assert outcome.code == 2
    assert outcome.err.startswith("error: no preset is called 'tinny'")
