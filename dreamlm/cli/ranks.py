"""`dreamlm train --nproc N`: the same command once per rank, with one of them speaking."""

import sys
from pathlib import Path

import typer

from dreamlm.cli.console import Console


def run_ranks(console: Console, processes: int, arguments: list[str]) -> None:
    """Train in several processes on this machine; ends with the exit code of the first that failed.

    Raises: RangeError for an impossible number of processes.
    """
    from dreamlm.core.training.backend.launch import launch

    ended = launch([sys.executable, "-m", "dreamlm.cli", "train", *arguments], processes)
    if ended.output:
        console.notice(f"rank {ended.failed_rank} ended first, with exit code {ended.exit_code}; its last words:")
        console.notice(ended.output)
    if ended.exit_code:
        raise typer.Exit(ended.exit_code)


def command_line(options: dict[str, str | Path | int | None], sets: list[str], flags: dict[str, bool]) -> list[str]:
    """The options as they would be typed; None was not given."""
    given = [word for name, value in options.items() if value is not None for word in (name, str(value))]
    assigned = [word for assignment in sets for word in ("--set", assignment)]
    return [*given, *assigned, *(name for name, wanted in flags.items() if wanted)]
