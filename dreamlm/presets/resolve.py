"""From a name or a file to a checked preset, or to one error that lists every mistake."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamlm.core.errors import Mistake, PresetError
from dreamlm.presets.document import JsonDocument
from dreamlm.presets.layers import Assignment, Layers
from dreamlm.presets.library import Found, chain, find
from dreamlm.presets.paths import anchored

if TYPE_CHECKING:
    from dreamlm.presets.schema import Preset

_ABOUT_THE_FILE = frozenset({"$schema", "extends"})
_ABOUT_THE_PRESET = frozenset({"description", "name"})


def resolve(preset: str | Path, sets: Sequence[str | Assignment] = ()) -> "Preset":
    """The preset of a library name or a JSON file, its `extends` chain and the `--set` assignments applied.

    Raises: PresetError with every mistake, UserMistake when a file is missing or is not JSON.
    """
    *ancestors, own = chain(find(str(preset)))
    layers = Layers({"name": own.path.stem})
    for ancestor in ancestors:
        layers = layers.with_document(_content(ancestor, _ABOUT_THE_FILE | _ABOUT_THE_PRESET), ancestor.shown)
    return _checked(str(preset), layers.with_document(_content(own, _ABOUT_THE_FILE), own.shown), sets)


def resolve_values(values: Mapping[str, Any], name: str, sets: Sequence[str | Assignment] = ()) -> "Preset":
    """The preset of values that were resolved before, such as those inside a snapshot; `name` is for messages.

    Raises: PresetError with every mistake.
    """
    return _checked(name, Layers().with_document(JsonDocument(_without(values, _ABOUT_THE_FILE), {}), name), sets)


def _content(found: Found, left_out: frozenset[str]) -> JsonDocument:
    """What a file says about training; its relative paths start beside it."""
    values = anchored(_without(found.document.values, left_out), found.path.parent.resolve())
    return JsonDocument(values, found.document.lines)


def _without(values: Mapping[str, Any], keys: frozenset[str]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in keys}


def _checked(name: str, layers: Layers, sets: Sequence[str | Assignment]) -> "Preset":
    from dreamlm.presets.mistakes import check
    from dreamlm.presets.schema import (
        Preset,
    )  # imports torch: a name that does not exist should not have to wait for it

    layers, malformed = layers.with_assignments(sets)
    if "extends" in layers.values:  # of files it was taken away
        what = "names the parent of a file, and cannot be assigned: write it into a preset file of your own"
        malformed.append(Mistake("extends", what, layers.origin(("extends",))))
        layers = replace(layers, values=_without(layers.values, _ABOUT_THE_FILE))
    layers = replace(layers, values=anchored(layers.values, Path.cwd()))
    preset, mistakes = check(Preset, layers)
    if preset is None or malformed:
        raise PresetError(name, [*malformed, *mistakes])
    return preset
