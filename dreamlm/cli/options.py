"""The options that several commands share, so that they are spelled and explained once."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from dreamlm.core.nn.positions.positions import LayerChoice
    from dreamlm.presets.layers import Assignment

PresetOption = Annotated[
    str | None, typer.Option("--preset", "-p", metavar="NAME|FILE", help="A preset of the library, or a JSON file.")
]


def set_option(example: str) -> Any:
    """`--set`, explained by an assignment that does something in the command."""
    return typer.Option("--set", metavar="KEY=VALUE", help=f"Change one key, as in {example}; may be repeated.")


SetOption = Annotated[list[str] | None, set_option("train.seed=1")]
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
ExtendOption = Annotated[
    int | None,
    typer.Option("--extend-max-seq-len", min=2, metavar="N", help="Extend the model to windows of N tokens."),
]
RescaleOption = Annotated[
    str | None,
    typer.Option(
        "--rescale-layers",
        metavar="LAYERS",
        help="Layers whose rotary positions are re-scaled for --extend-max-seq-len: all, lower_half, upper_half, "
        "or numbers as in 0,1. The others keep theirs.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on stdout and nothing else.")]


def assignments(section: str, options: dict[str, Any]) -> list["Assignment"]:
    """What was given of a command's own options, `{"--top-p": ("top_p", 0.9)}`, as keys of a preset's section.

    None was not given. A mistake in one is then shown with the option that was typed.
    """
    from dreamlm.presets.layers import Assignment

    given = [(option, key, value) for option, (key, value) in options.items() if value is not None]
    return [Assignment(f"{section}.{key}={json.dumps(value)}", _typed(option, value)) for option, key, value in given]


def layer_choice(text: str | None) -> "LayerChoice | None":
    """What `--rescale-layers` says.  Raises: UserMistake when it is neither a word for layers nor numbers."""
    from dreamlm.core.errors import UserMistake

    if text is None or text in ("all", "lower_half", "upper_half"):
        return text  # type: ignore[return-value]  # mypy does not narrow a text by a tuple of literals
    numbers = text.split(",")
    if not all(number.strip().isdecimal() for number in numbers):
        raise UserMistake(
            f"--rescale-layers {text!r} names no layers",
            valid=["all", "lower_half", "upper_half", "numbers from 0, as in 0,1"],
        )
    return tuple(int(number) for number in numbers)


def _typed(option: str, value: Any) -> str:
    if value is True:
        return option
    return " ".join(f"{option} {one}" for one in (value if isinstance(value, list) else [value]))
