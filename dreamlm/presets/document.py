"""A JSON file together with the line on which each of its keys stands, so that a mistake can point at it."""

import json
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from json import JSONDecoder
from pathlib import Path
from typing import Any

from dreamlm.core.errors import Mistake, PresetError, UserMistake

TYPE_NAMES = {dict: "an object", list: "a list", str: "text", int: "a number", float: "a number", bool: "a boolean"}

KeyPath = tuple[str | int, ...]
"""Where a value stands: keys of objects and indexes of lists, from the outside in."""

DEEPEST = 100
"""Objects and lists inside of one another; what reads them may call itself as often."""

_TOO_DEEP = f"is nested more than {DEEPEST} objects or lists deep"


class NoPresetValue(ValueError):
    """Valid JSON that is more than a preset may hold; its message is the sentence without its subject."""


@dataclass(frozen=True)
class JsonDocument:
    """The object in a file, and the line (from 1) of every key and list element in it."""

    values: dict[str, Any]
    lines: dict[KeyPath, int]


def dotted(path: KeyPath) -> str:
    """`("data", "sources", 0)` as people write it: `data.sources.0`."""
    return ".".join(str(part) for part in path)


def parts_of(value: Any) -> Iterable[tuple[str | int, Any]]:
    """The parts of an object or a list by key or index; of anything else, none."""
    if isinstance(value, dict):
        return value.items()
    return enumerate(value) if isinstance(value, list) else ()


def parse_json(text: str, deepest: int = DEEPEST, parse_constant: Callable[[str], Any] | None = None) -> Any:
    """The value of a JSON text, as a preset may hold it.  parse_constant: as `json.loads` takes it.

    Raises: json.JSONDecodeError when it is no JSON, NoPresetValue when it is more than a preset may hold.
    """
    try:
        value = json.loads(text, parse_constant=parse_constant)
    except json.JSONDecodeError:
        raise
    except ValueError as error:  # of `int`, which says how many digits it reads
        raise NoPresetValue("holds a number of more digits than can be read") from error
    except RecursionError as error:
        raise NoPresetValue(_TOO_DEEP) from error
    if _depth(value) > deepest:
        raise NoPresetValue(_TOO_DEEP)
    return value


def _depth(value: Any) -> int:
    """How many objects and lists lie inside of one another, but none deeper than `DEEPEST` is looked at."""
    level = [one for one in [value] if isinstance(one, dict | list)]
    depth = 0
    while level and depth <= DEEPEST:
        depth += 1
        level = [one for around in level for _, one in parts_of(around) if isinstance(one, dict | list)]
    return depth


def read_document(path: Path) -> JsonDocument:
    """Read a JSON file whose outermost value is an object.

    Raises: UserMistake when it cannot be read or is no such JSON, PresetError when an object has the same key twice.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UserMistake(f"cannot read the preset file: {error.strerror}", where=str(path)) from error
    except UnicodeDecodeError as error:
        raise UserMistake(f"the preset file is not UTF-8 text: {error.reason}", where=str(path)) from error
    values = _parse(text, path)
    if not isinstance(values, dict):
        found = "null" if values is None else TYPE_NAMES[type(values)]
        raise UserMistake(f"a preset is a JSON object, this file holds {found}", where=str(path))
    lines: dict[KeyPath, int] = {}
    twice: list[Mistake] = []
    for key, line in _keys_with_lines(text):
        if key in lines:
            twice.append(Mistake(dotted(key), f"stands here twice, first on line {lines[key]}", f"{path}:{line}"))
        lines[key] = line
    if twice:
        raise PresetError(str(path), twice)
    return JsonDocument(values, lines)


def _parse(text: str, path: Path) -> Any:
    def refuse(constant: str) -> None:
        raise UserMistake(f"{constant} is not a JSON number", where=str(path))

    try:
        return parse_json(text, parse_constant=refuse)
    except json.JSONDecodeError as error:
        raise UserMistake(
            f"not valid JSON: {error.msg[0].lower()}{error.msg[1:]}",
            where=f"{path}:{error.lineno}:{error.colno}: {_line_of(error)}",
            hint="JSON wants double quotes, no comment, and no comma after the last element",
        ) from error
    except NoPresetValue as error:
        raise UserMistake(f"the preset file {error}", where=str(path)) from error


def _line_of(error: json.JSONDecodeError) -> str:
    """What stands in the line that the error is about."""
    if not error.doc.strip():
        return "the file is empty"
    if not error.doc[error.pos :].strip():
        return "the file ends here; a brace or bracket may lack its other half"
    return error.doc.split("\n")[error.lineno - 1].strip()[:80]


_SPACE = re.compile(r"\s*")
_DECODER = JSONDecoder()


def _keys_with_lines(text: str) -> list[tuple[KeyPath, int]]:
    """Every key and list element of valid JSON with its line number, in the order of the text."""
    found: list[tuple[KeyPath, int]] = []
    line_ends = [match.start() for match in re.finditer("\n", text)]

    def skip_space(position: int) -> int:
        match = _SPACE.match(text, position)
        return match.end() if match else position

    def walk(position: int, path: KeyPath) -> int:
        """Record the keys inside the value at `position`; returns the position after the value."""
        opening = text[position]
        if opening not in "{[":
            return _DECODER.raw_decode(text, position)[1]
        position, index = skip_space(position + 1), 0
        while text[position] not in "}]":
            line = bisect_left(line_ends, position) + 1
            part: str | int = index
            if opening == "{":
                part, position = _DECODER.raw_decode(text, position)
                position = skip_space(skip_space(position) + 1)
            found.append(((*path, part), line))
            position = skip_space(walk(position, (*path, part)))
            if text[position] == ",":
                position = skip_space(position + 1)
            index += 1
        return position + 1

    walk(skip_space(0), ())
    return found
