"""A JSON file together with the line on which each of its keys stands, so that a mistake can point at it."""

import json
import re
from bisect import bisect_left
from dataclasses import dataclass
from json import JSONDecoder
from pathlib import Path
from typing import Any

from dreamlm.core.errors import Mistake, PresetError, UserMistake

TYPE_NAMES = {dict: "an object", list: "a list", str: "text", int: "a number", float: "a number", bool: "a boolean"}

KeyPath = tuple[str | int, ...]
"""Where a value stands: keys of objects and indexes of lists, from the outside in."""


@dataclass(frozen=True)
class JsonDocument:
    """The object in a file, and the line (from 1) of every key and list element in it."""

    values: dict[str, Any]
    lines: dict[KeyPath, int]


def dotted(path: KeyPath) -> str:
    """`("data", "sources", 0)` as people write it: `data.sources.0`."""
    return ".".join(str(part) for part in path)


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
        return json.loads(text, parse_constant=refuse)
    except json.JSONDecodeError as error:
        line = text.splitlines()[error.lineno - 1].strip() if text.strip() else "the file is empty"
        raise UserMistake(
            f"not valid JSON: {error.msg[0].lower()}{error.msg[1:]}",
            where=f"{path}:{error.lineno}:{error.colno}: {line[:80]}",
            hint="JSON wants double quotes, no comment, and no comma after the last element",
        ) from error
    except RecursionError as error:
        raise UserMistake("the JSON is nested too deeply to be a preset", where=str(path)) from error


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
