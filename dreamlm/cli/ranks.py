"""`--nproc N` of `dreamlm train` and `dreamlm rl`: the same command once per rank, with one of them speaking.

A rank whose micro-batch does not fit into memory cannot go on alone. It leaves a note and ends, the others end with it,
and all are started again with the smaller micro-batch that the note names. They go on from the newest snapshot.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import typer

from dreamlm.cli.console import Console


def run_ranks(console: Console, processes: int, arguments: list[str]) -> None:
    """Run a command that trains in several processes on this machine; ends with the exit code of the first that failed.

    Raises: RangeError for an impossible number of processes.
    """
    from dreamlm.core.training.backend.launch import MICRO_ROWS, launch

    command = [sys.executable, "-m", "dreamlm.cli", *arguments]
    ended = launch(command, processes)
    while ended.note and not ended.signal_number:
        note = json.loads(ended.note)
        console.notice(f"{note['remedy']}; the {processes} processes start again from the newest snapshot")
        ended = launch(command, processes, environment={MICRO_ROWS: str(note["rows"])})
    if ended.note:
        console.notice("stopped while it ran out of memory; the same command goes on from the newest snapshot")
        raise typer.Exit(128 + ended.signal_number)
    if ended.output:
        console.notice(f"rank {ended.failed_rank} ended first, with exit code {ended.exit_code}; its last words:")
        console.notice(ended.output)
    if ended.exit_code:
        raise typer.Exit(ended.exit_code)


@contextmanager
def as_a_rank() -> Iterator[None]:
    """A process whose micro-batch does not fit ends without a word, where `run_ranks` will start it again."""
    from dreamlm.core.errors import MicroBatchTooLarge
    from dreamlm.core.training.backend.launch import leave_note

    try:
        yield
    except MicroBatchTooLarge as error:
        if not leave_note(json.dumps({"rows": error.fewer, "remedy": error.remedy})):
            raise
        raise typer.Exit(error.exit_code) from error


def command_line(options: Mapping[str, str | Path | int | None], sets: list[str], flags: dict[str, bool]) -> list[str]:
    """The options as they would be typed; None was not given."""
    given = [word for name, value in options.items() if value is not None for word in (name, str(value))]
    assigned = [word for assignment in sets for word in ("--set", assignment)]
    return [*given, *assigned, *(name for name, wanted in flags.items() if wanted)]
