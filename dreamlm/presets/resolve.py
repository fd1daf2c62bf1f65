"""From a name or a file to a checked preset, or to one error that lists every mistake."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamlm.core.errors import PresetError
from dreamlm.presets.document import JsonDocument
from dreamlm.presets.layers import Assignment, Layers
from dreamlm.presets.library import chain, find

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
        layers = layers.with_document(_without(ancestor.document, _ABOUT_THE_FILE | _ABOUT_THE_PRESET), ancestor.shown)
    return _checked(str(preset), layers.with_document(_without(own.document, _ABOUT_THE_FILE), own.shown), sets)


def resolve_values(values: Mapping[str, Any], name: str, sets: Sequence[str | Assignment] = ()) -> "Preset":
    """The preset of values that were resolved before, such as those inside a snapshot; `name` is for messages.

    Raises: PresetError with every mistake.
    """
    document = _without(JsonDocument(dict(values), {}), _ABOUT_THE_FILE)
    return _checked(name, Layers().with_document(document, name), sets)


def _without(document: JsonDocument, keys: frozenset[str]) -> JsonDocument:
    return JsonDocument({key: value for key, value in document.values.items() if key not in keys}, document.lines)


def _checked(name: str, layers: Layers, sets: Sequence[str | Assignment]) -> "Preset":
    from dreamlm.presets.mistakes import check
    from dreamlm.presets.schema import (
        Preset,
    )  # imports torch: a name that does not exist should not have to wait for it

    layers, malformed = layers.with_assignments(sets)
    preset, mistakes = check(Preset, layers)
    if preset is None or malformed:
        raise PresetError(name, [*malformed, *mistakes])
    return preset
