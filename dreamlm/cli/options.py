"""The options that several commands share, so that they are spelled and explained once."""

from pathlib import Path
from typing import Annotated

import typer

PresetOption = Annotated[
    str | None, typer.Option("--preset", "-p", metavar="NAME|FILE", help="A preset of the library, or a JSON file.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one key, as in train.seed=1; may be repeated."),
]
RunOption = Annotated[Path | None, typer.Option("--run", metavar="DIR", help="The run folder.")]
CheckpointOption = Annotated[
    Path | None, typer.Option("--checkpoint", metavar="DIR", help="One snapshot folder, instead of a run's latest.")
]
CorpusOption = Annotated[Path | None, typer.Option("--corpus", metavar="DIR", help="The prepared corpus.")]
SeedOption = Annotated[int | None, typer.Option("--seed", min=0, help="Seed of everything random.")]
DeviceOption = Annotated[str | None, typer.Option("--device", metavar="NAME", help="auto, cpu, cuda, cuda:1, ...")]
WorkersOption = Annotated[
    int | None, typer.Option("--workers", min=1, metavar="N", help="Processes that read and tokenise.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on stdout and nothing else.")]
