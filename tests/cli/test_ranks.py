"""Starting ranks: every option reaches them as it was typed, and the exit code comes back."""

import sys
from pathlib import Path
from typing import Any

import pytest

from dreamlm.cli.ranks import command_line
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


def test_a_mistake_in_the_preset_is_found_before_any_rank_starts(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launching, "launch", lambda command, processes: pytest.fail("a rank was started"))
    outcome = cli("train", "--preset", "tiny", "--nproc", "2", "--set", "train.seed=-1")
    assert outcome.code == 2
    assert "train.seed: must be at least 0, not -1" in outcome.err


def test_the_option_that_the_deepspeed_launcher_adds_is_understood(cli: Any) -> None:
    outcome = cli("--local_rank=1", "train", "--preset", "tinny")
    assert outcome.code == 2
    assert outcome.err.startswith("error: no preset is called 'tinny'")
