"""Putting presets on top of one another: parents first, then the file itself, then each `--set`.

Objects merge key by key; a list or a plain value replaces what was below it. Where a value is a choice
(`{"type": ...}`), naming another type starts that choice afresh, because the old type's keys mean nothing to it. So do
other `data.sources`: they start without the `data.source_weights` that were below them.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dreamlm.core.errors import Mistake, UserMistake
from dreamlm.presets.document import DEEPEST, JsonDocument, KeyPath, NoPresetValue, dotted, parse_json, parts_of


@dataclass(frozen=True)
class Assignment:
    """One `a.b=c`, and how messages call it: what the user typed."""

    text: str
    typed: str


@dataclass(frozen=True)
class Layers:
    """The merged values, and for every layer, lowest first, where it wrote each of its keys."""

    values: dict[str, Any] = field(default_factory=dict)
    written: tuple[Mapping[KeyPath, str], ...] = ()

    def origin(self, path: KeyPath) -> str:
        """The place that wrote a key last; for a key that nobody wrote, that of the innermost object around it."""
        for length in range(len(path), 0, -1):
            for places in reversed(self.written):
                if path[:length] in places:
                    return places[path[:length]]
        return ""

    def with_document(self, document: JsonDocument, name: str) -> "Layers":
        """These values with a file's on top; `name` is how messages call the file."""
        places = {path: f"{name}:{line}" for path, line in document.lines.items()}
        below = _without_weights(self.values) if _names_sources(document.values) else self.values
        return Layers(merge(below, document.values), self.written).with_places(places)

    def with_places(self, places: Mapping[KeyPath, str]) -> "Layers":
        """These values, the topmost of which were written at `places`; what they replaced is forgotten."""
        left = [{path: at for path, at in below.items() if _holds(self.values, path)} for below in self.written]
        return Layers(self.values, (*left, places))

    def with_assignments(self, assignments: Sequence[str | Assignment]) -> tuple["Layers", list[Mistake]]:
        """These values with each `a.b=c` on top, and the mistakes of those that cannot be applied.

        A bare text was typed after `--set`. Assigning whole `data.sources` drops the weights below in whatever order it
        stands; weights that are assigned as well stay.
        The value is read as JSON where it is JSON (`3`, `true`, `null`, `["a"]`), as plain text otherwise.
        """
        layers, mistakes = self, []
        changes: list[tuple[KeyPath, Any, str]] = []
        for assignment in assignments:
            assignment = _as_typed(assignment)
            typed = _short(assignment.typed)
            key, equals, text = assignment.text.partition("=")
            path = parse_key(key.strip())
            if not equals or not path:
                mistakes.append(Mistake(typed, "is not KEY=VALUE", "for example --set train.seed=1"))
                continue
            try:
                changes.append((path, _parse_value(text, DEEPEST - len(path)), typed))
            except NoPresetValue as error:
                mistakes.append(Mistake(typed, str(error)))
        if any(_names_sources(_assign(None, path, value)) for path, value, _ in changes):
            layers = Layers(_without_weights(self.values), self.written)
        for path, value, typed in changes:
            try:
                values = _assign(layers.values, path, value)
            except LookupError as error:
                mistakes.append(Mistake(dotted(path), str(error.args[0]), typed))
            else:
                places = {path + inside: typed for inside in _paths(value)}
                layers = Layers(values, layers.written).with_places(places)
        return layers, mistakes


def require_read(assignments: Sequence[str | Assignment], read: Sequence[str], example: str) -> None:
    """Refuse assignments that would do nothing, unseen: a command reads only the keys in `read` and those below them.

    example: one that it does read, such as `generate.top_k=40`.  Raises: UserMistake naming all that were refused.
    """
    sections = [parse_key(key) for key in read]
    given = [_as_typed(one) for one in assignments]
    keys = [parse_key(one.text.partition("=")[0].strip()) for one in given]
    unread = [
        _short(one.typed)
        for one, key in zip(given, keys, strict=True)
        if not any(key[: len(section)] == section for section in sections)
    ]
    if unread:
        what = f"{', '.join(unread)}: would change nothing, as this command reads other keys of the model's preset"
        raise UserMistake(what, valid=read, hint=f"for example --set {example}")


def merge(below: Any, above: Any) -> Any:
    """`above` on top of `below`; neither is changed. A bare string below an object stands for its `type`."""
    if not isinstance(above, dict):
        return above
    if isinstance(below, str):
        below = {"type": below}
    if not isinstance(below, dict) or ("type" in below and above.get("type", below["type"]) != below["type"]):
        return above
    return below | {key: merge(below.get(key), value) for key, value in above.items()}


def parse_key(key: str) -> KeyPath:
    """`data.sources.0` as a path; empty when a part is missing."""
    parts = key.split(".")
    return tuple(int(part) if part.isdecimal() and len(part) < 10 else part for part in parts) if all(parts) else ()


def _assign(below: Any, path: KeyPath, value: Any) -> Any:
    """`below` with `value` put at `path`; objects on the way appear as needed, elements of lists must exist."""
    if not path:
        return merge(below, value)
    part, rest = path[0], path[1:]
    if isinstance(below, list):
        if not isinstance(part, int) or part >= len(below):
            raise LookupError(f"no element {part} in this list of {len(below)}; the first is 0")
        return [*below[:part], _assign(below[part], rest, value), *below[part + 1 :]]
    inside = below.get(str(part)) if isinstance(below, dict) else None
    return merge(below, {str(part): _assign(inside, rest, value)})


def _paths(value: Any) -> Iterator[KeyPath]:
    """Of a value and of everything in it, from the value on."""
    yield ()
    for part, inner in parts_of(value):
        yield from ((part, *path) for path in _paths(inner))


def _holds(value: Any, path: KeyPath) -> bool:
    for part in path:
        inside = dict(parts_of(value))
        if part not in inside:
            return False
        value = inside[part]
    return True


def _names_sources(values: Any) -> bool:
    """Whether these values bring sources of their own; an element of a list changed in place does not."""
    data = values.get("data") if isinstance(values, dict) else None
    return isinstance(data, dict) and isinstance(data.get("sources"), list)


def _without_weights(values: dict[str, Any]) -> dict[str, Any]:
    data = values.get("data")
    if not isinstance(data, dict):
        return values
    return {**values, "data": {key: value for key, value in data.items() if key != "source_weights"}}


def _parse_value(text: str, deepest: int) -> Any:
    """Raises: NoPresetValue."""
    try:
        return parse_json(text, deepest)
    except json.JSONDecodeError:
        return text


def _as_typed(assignment: str | Assignment) -> Assignment:
    return Assignment(assignment, f"--set {assignment}") if isinstance(assignment, str) else assignment


def _short(text: str) -> str:
    return text if len(text) <= 80 else text[:77] + "..."
