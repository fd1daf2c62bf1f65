"""The options that several commands share, so that they are spelled and explained once."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from dreamlm.presets.layers import Assignment

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


def assignments(section: str, options: dict[str, Any]) -> list["Assignment"]:
    """What was given of a command's own options, `{"--top-p": ("top_p", 0.9)}`, as keys of a preset's section.

    None was not given. A mistake in one is then shown with the option that was typed.
    """
    from dreamlm.presets.layers import Assignment

    given = [(option, key, value) for option, (key, value) in options.items() if value is not None]
    return [Assignment(f"{section}.{key}={json.dumps(value)}", _typed(option, value)) for option, key, value in given]


def _typed(option: str, value: Any) -> str:
    if value is True:
        return option
    return " ".join(f"{option} {one}" for one in (value if isinstance(value, list) else [value]))
