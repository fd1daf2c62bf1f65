"""`dreamlm train`: start a run, or go on with it."""

import os
from typing import TYPE_CHECKING, Annotated

import typer

from dreamlm.cli.console import Console
from dreamlm.cli.options import (
    CorpusOption,
    DeviceOption,
    JsonOption,
    PresetOption,
    RunOption,
    SeedOption,
    SetOption,
    WorkersOption,
)

if TYPE_CHECKING:
    from dreamlm.wiring.training import TrainRequest


def train(
    preset: PresetOption = None,
    sets: SetOption = None,
    run: RunOption = None,
    corpus: CorpusOption = None,
    seed: SeedOption = None,
    device: DeviceOption = None,
    workers: WorkersOption = None,
    nproc: Annotated[
        int | None, typer.Option("--nproc", min=1, metavar="N", help="Train in N processes here, with DeepSpeed.")
    ] = None,
    allow_changes: Annotated[
        bool, typer.Option("--allow-changes", help="Continue a run although safe settings differ.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Train a model, or go on where the run stopped.

    Prepares the corpus if need be. Without --run the folder is runs/NAME. Stop it as you like: Ctrl-C saves first,
    and the same command resumes.
    """
    from dreamlm.cli.menu import choose_preset
    from dreamlm.cli.places import RUNS, has_snapshots
    from dreamlm.cli.ranks import command_line, run_ranks
    from dreamlm.core.errors import UserMistake
    from dreamlm.presets.resolve import resolve

    console = Console(as_json)
    changes = [*(sets or ()), *([] if seed is None else [f"train.seed={seed}"])]
    chosen = None
    if preset is not None or run is None or not has_snapshots(run):
        if preset is None and run is not None and not console.can_ask:
            raise UserMistake("there is no run to continue here", where=str(run), hint="start one with --preset NAME")
        preset = preset or choose_preset(console)
        chosen = resolve(preset, changes)
    folder = run or RUNS / (chosen.name if chosen else "")
    if nproc is not None and nproc > 1 and "RANK" not in os.environ:
        options = {"--preset": preset, "--run": folder, "--corpus": corpus, "--device": device, "--workers": workers}
        flags = {"--allow-changes": allow_changes, "--json": as_json}
        run_ranks(console, nproc, ["train", *command_line(options, changes, flags)])
        return
    from dreamlm.wiring.training import TrainRequest

    _run(console, TrainRequest(chosen, folder, changes, corpus, device or "auto", workers, allow_changes))


def _run(console: Console, request: "TrainRequest") -> None:
    from dreamlm.cli.live import JsonTraining, LiveTraining
    from dreamlm.cli.progress import PreparationProgress
    from dreamlm.cli.ranks import as_a_rank
    from dreamlm.core.training.hooks import Hook
    from dreamlm.data_sources.progress import Silence
    from dreamlm.wiring.training import train as run_training

    if os.environ.get("RANK", "0") != "0":
        with as_a_rank():
            run_training(request, Hook(), Silence())
        return
    with as_a_rank(), console.live() as line:
        hook = JsonTraining(console) if console.as_json else LiveTraining(console, line)
        run_training(request, hook, PreparationProgress(console, line))
