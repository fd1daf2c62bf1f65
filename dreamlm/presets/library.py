"""Where presets come from: the library that ships with dreamlm, or a file; and the chain that `extends` makes of them.

Reads JSON only, so that listing the library costs neither pydantic nor torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dreamlm.core.errors import UserMistake
from dreamlm.presets.document import JsonDocument, read_document
from dreamlm.presets.suggestions import close

LIBRARY = Path(__file__).parent / "library"
DEFAULT_PRESET = "best_general"


@dataclass(frozen=True)
class Found:
    """A preset document, the file it was read from, and how messages call that file."""

    document: JsonDocument
    path: Path
    shown: str


def names() -> Sequence[str]:
    """The names in the library, sorted."""
    return sorted(path.stem for path in LIBRARY.glob("*.json"))


def description(name: str) -> str:
    """What a library preset says about itself."""
    return str(read_document(LIBRARY / f"{name}.json").values.get("description", ""))


def find(preset: str, beside: Path | None = None) -> Found:
    """The document of a library name or of a file; a relative file starts at the folder `beside`, else where we are.

    A text with a path separator or ending in `.json` is a file, anything else a name.
    Raises: UserMistake when there is no such preset.
    """
    folder = beside or Path()
    if preset.endswith(".json") or Path(preset).name != preset:
        path = folder / preset
        if not path.exists():
            raise UserMistake(
                "there is no such preset file", where=str(path), valid=names(), hint=_instead_of_file(path)
            )
        return Found(read_document(path), path, str(path))
    if preset not in names():
        hint = _instead_of_name(preset, folder)
        raise UserMistake(f"no preset is called {preset!r}", valid=names(), hint=hint)
    path = LIBRARY / f"{preset}.json"
    return Found(read_document(path), path, path.name)


def _instead_of_file(path: Path) -> str:
    """What the writer of a path that leads nowhere probably meant: a preset of the library, or a file nearby."""
    named = path.name.removesuffix(".json")
    nearby = close(named, (file.stem for file in path.parent.glob("*.json")))
    if nearby and named not in names():
        return f"did you mean the file {path.with_name(nearby)}.json?"
    if meant := close(named, names()):
        return f"did you mean {meant}? a preset of the library is named without a folder and without .json"
    return "give the path of a JSON file, or the name of a preset of the library"


def _instead_of_name(preset: str, folder: Path) -> str:
    """The same for a name that the library does not have."""
    if preset and (folder / f"{preset}.json").exists():
        return f"to use the file of that name, write {preset}.json"
    if (folder / preset).is_file():
        return f"to use the file of that name, write ./{preset}"
    if meant := close(preset, names()):
        return f"did you mean {meant}?"
    name = preset or "my"
    return f"for a file, give its path, such as ./{name if Path(name).suffix else f'{name}.json'}"


def chain(start: Found) -> Sequence[Found]:
    """The preset and everything it extends, furthest ancestor first.

    Raises: UserMistake when the chain comes back to itself, when a parent cannot be found or is not named by text.
    """
    members = [start]
    while (parent := members[-1].document.values.get("extends")) is not None:
        child = members[-1]
        place = f"{child.shown}:{child.document.lines[('extends',)]}"
        if not isinstance(parent, str):
            raise UserMistake("extends must be the name or the file of one preset", where=place)
        try:
            found = find(parent, child.path.parent)
        except UserMistake as error:
            raise UserMistake(
                f"the preset to extend was not found: {error.what}", where=place, valid=error.valid, hint=error.hint
            ) from error
        members.append(found)
        if found.path.resolve() in [member.path.resolve() for member in members[:-1]]:
            raise UserMistake(
                f"extends goes in a circle: {' -> '.join(member.shown for member in members)}", where=place
            )
    return members[::-1]
