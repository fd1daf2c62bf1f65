"""`dreamlm presets`: look at presets and check them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dreamlm.cli.console import Console
from dreamlm.cli.options import JsonOption, SetOption

if TYPE_CHECKING:
    from dreamlm.core.errors import UserMistake

app = typer.Typer(no_args_is_help=True, help="List, show, check and compare presets.", rich_markup_mode=None)

Preset = Annotated[str, typer.Argument(metavar="NAME|FILE", help="A preset of the library, or a JSON file.")]


@app.command("list")
def list_presets(as_json: JsonOption = False) -> None:
    """The presets that ship with dreamlm."""
    from dreamlm.presets.library import DEFAULT_PRESET, description, names

    console = Console(as_json)
    rows = [(name, description(name)) for name in names()]
    if as_json:
        console.document(
            [{"name": name, "description": text, "default": name == DEFAULT_PRESET} for name, text in rows]
        )
    else:
        marked = [(f"{name} (default)" if name == DEFAULT_PRESET else name, text) for name, text in rows]
        console.table(("name", "description"), marked)


@app.command()
def show(preset: Preset, sets: SetOption = None, as_json: JsonOption = False) -> None:
    """Print a preset as it will be used.

    Parents and --set are applied, and every default is filled in. It is JSON with --json and without.
    """
    from dreamlm.presets.resolve import resolve
    from dreamlm.presets.written import written

    Console(as_json=True).document(written(resolve(preset, sets or ())))


@app.command()
def validate(
    presets: Annotated[list[str], typer.Argument(metavar="NAME|FILE...")],
    sets: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check presets and report every mistake.

    --set is applied to each of them. Exit code 2 when there is a mistake.
    """
    from dreamlm.core.errors import PresetError, UserMistake
    from dreamlm.presets.resolve import resolve

    console = Console(as_json)
    verdicts: list[dict[str, Any]] = []
    for preset in presets:
        verdict: dict[str, Any] = {"preset": preset, "valid": True, "mistakes": []}
        try:
            resolve(preset, sets or ())
        except UserMistake as error:
            found = error.mistakes if isinstance(error, PresetError) else [_as_mistake(error)]
            verdict = {"preset": preset, "valid": False, "mistakes": found}
            console.error(error)
        else:
            if not as_json:
                console.result(f"{preset}: valid")
        verdicts.append(verdict)
    if as_json:
        console.document(verdicts)
    if not all(verdict["valid"] for verdict in verdicts):
        raise typer.Exit(2)


@app.command()
def schema(as_json: JsonOption = False) -> None:
    """Print the JSON Schema of preset files.

    Every key with its type, range and meaning; editors check presets against it. It is JSON with --json and without.
    """
    from dreamlm.presets.schema import published_schema

    Console(as_json=True).document(published_schema())


@app.command()
def diff(left: Preset, right: Preset, sets: SetOption = None, as_json: JsonOption = False) -> None:
    """Print the keys in which two presets differ.

    Compared after parents and defaults, and after --set, which is applied to both.
    """
    from dreamlm.presets.difference import differences
    from dreamlm.presets.resolve import resolve

    console = Console(as_json)
    first, second = (resolve(preset, sets or ()).model_dump(mode="json") for preset in (left, right))
    rows = [{"key": key, "left": before, "right": after} for key, before, after in differences(first, second)]
    if as_json:
        console.document(rows)
    elif rows:
        stems = Path(left).stem, Path(right).stem
        heads = ("key", *(stems if len(set(stems)) == 2 else (left, right)))
        console.table(heads, [[_short(value) for value in row.values()] for row in rows])
    else:
        console.result("no difference")


def _as_mistake(error: "UserMistake") -> dict[str, Any]:
    """A mistake that is about no key, with all that the error says of it."""
    return {"key": "", "message": error.what, "where": error.where, "valid": error.valid, "hint": error.hint}


def _short(value: Any) -> str:
    import json

    text = value if isinstance(value, str) else "-" if value is None else json.dumps(value, ensure_ascii=False)
    text = text.replace("\n", "\\n")
    return text if len(text) <= 60 else text[:57] + "..."
