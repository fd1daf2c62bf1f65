"""What a schema objects to, in words a user can act on: which key, what is wrong, what is valid, where it stands."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from dreamlm.core.errors import Mistake
from dreamlm.presets.document import KeyPath, dotted
from dreamlm.presets.layers import Layers
from dreamlm.presets.suggestions import close, keys_at, schema_keys, suggest

ModelT = TypeVar("ModelT", bound=BaseModel)

_WANTED = {
    "bool": "must be true or false",
    "dict": "must be an object {{ ... }}",
    "float": "must be a number",
    "frozen_set": "must be a list [ ... ]",
    "int": "must be a whole number",
    "list": "must be a list [ ... ]",
    "literal": "must be {expected}",
    "enum": "must be {expected}",
    "model": "must be an object {{ ... }}",
    "path": "must be a path",
    "set": "must be a list [ ... ]",
    "string": "must be text",
    "tuple": "must be a list [ ... ]",
}
"""What each family of pydantic's error types wanted, by the first word of the type."""

_BOUNDS = {
    "finite_number": "must be a finite number",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "multiple_of": "must be a multiple of {multiple_of}",
    "string_too_short": "must not be shorter than {min_length} characters",
    "string_too_long": "must not be longer than {max_length} characters",
    "string_pattern_mismatch": "must match {pattern}",
    "too_long": "must not have more than {max_length} elements",
    "too_short": "must have at least {min_length} elements",
    "union_tag_invalid": "must be one of {expected_tags}",
    "union_tag_not_found": 'must name its "type"',
}


@dataclass(frozen=True)
class Finding:
    """One mistake and the key it stands at, as a path."""

    path: KeyPath
    mistake: Mistake
    missing: bool = False


class Disagreement(ValueError):
    """Keys that are good one by one and do not fit together; a schema's own check raises all of them at once."""

    def __init__(self, *objections: tuple[KeyPath, str]) -> None:
        self.objections = objections
        super().__init__("; ".join(f"{dotted(path)}: {message}" for path, message in objections))


def check(schema: type[ModelT], layers: Layers) -> tuple[ModelT | None, list[Mistake]]:
    """Validate merged values against a schema: the model, or every mistake.

    The schema's own checks across keys run only on values that are good one by one. So after a round with mistakes
    the bad keys are left out and the rest is checked again; an objection that mentions a key left out is not believed.
    """
    findings: list[Finding] = []
    left_out: set[KeyPath] = set()
    values = layers.values
    while True:
        try:
            model = schema.model_validate(values)
        except ValidationError as error:
            found = [one for one in explain(error, schema, values, layers) if _believable(one, left_out)]
            new = [one for one in found if one not in findings]
        else:
            return (None, [found.mistake for found in findings]) if findings else (model, [])
        findings += new
        dropped = {_replaceable(found) for found in new} - {()}
        if not dropped:
            return None, [found.mistake for found in findings]
        left_out |= dropped
        for path in dropped:
            values = _without(values, path)


def _believable(found: Finding, left_out: set[KeyPath]) -> bool:
    """Whether an objection would stand if the keys left out had good values."""
    about = {str(path[-1]) for path in left_out}
    mentions = set(re.findall(r"\w+", found.mistake.message)) & about
    return not mentions and found.path not in left_out


def _replaceable(found: Finding) -> KeyPath:
    """The innermost key that can be left out to check the rest: a list goes as a whole, as does what lacks a key."""
    path = found.path[:-1] if found.missing else found.path
    indexes = [depth for depth, part in enumerate(path) if isinstance(part, int)]
    return path[: indexes[0]] if indexes else path


def explain(
    error: ValidationError, schema: type[BaseModel], values: Mapping[str, Any], layers: Layers
) -> list[Finding]:
    """One finding per key, in the order of pydantic's errors; the alternatives of one key are joined by `or`."""
    by_path: dict[KeyPath, list[ErrorDetails]] = {}
    findings = []
    for details in error.errors():
        raised = details.get("ctx", {}).get("error")
        if isinstance(raised, Disagreement):
            around = _key_path(details, values)
            findings += [_finding((*around, *path), message, layers) for path, message in raised.objections]
        else:
            by_path.setdefault(_key_path(details, values), []).append(details)
    published = schema.model_json_schema()
    keys = schema_keys(published)
    for path, group in by_path.items():
        if any(len(other) > len(path) and other[: len(path)] == path for other in by_path):
            group = [details for details in group if details["type"] == "value_error"]
        if group:
            if group[0]["type"] == "extra_forbidden":
                message = _unknown_key(path, keys, keys_at(published, group[0]["loc"][:-1]))
            else:
                message = _message(group)
            findings.append(_finding(path, message, layers, group[0]["type"] == "missing"))
    return findings


def _finding(path: KeyPath, message: str, layers: Layers, missing: bool = False) -> Finding:
    origin = layers.origin(path[:-1] if missing else path)
    return Finding(path, Mistake(dotted(path) or "preset", message, origin), missing)


def _key_path(details: ErrorDetails, values: Any) -> KeyPath:
    """The key as the user wrote it: pydantic's location without the names of union members it passes through."""
    location, path = details["loc"], []
    inside_choice = False
    for index, part in enumerate(location):
        last = index == len(location) - 1
        if isinstance(values, dict) and part == values.get("type") and not inside_choice:
            inside_choice = True
            continue
        if isinstance(values, dict) and part in values:
            values = values[str(part)]
        elif isinstance(values, list) and isinstance(part, int) and part < len(values):
            values = values[part]
        elif not (last and details["type"] == "missing"):
            continue
        inside_choice = False
        path.append(part)
    return tuple(path)


def _message(group: Sequence[ErrorDetails]) -> str:
    kind = group[0]["type"]
    if kind == "missing":
        return "is missing, and has no default"
    if kind == "value_error":
        return "; ".join(dict.fromkeys(str(details.get("ctx", {}).get("error", details["msg"])) for details in group))
    wanted = list(dict.fromkeys(_wanted(details) for details in group))
    sentence = " or ".join([wanted[0], *(other.removeprefix("must be ") for other in wanted[1:])])
    found = group[0].get("ctx", {}).get("tag", group[0]["input"])
    message = f"{sentence}, not {_shown(found)}"
    valid = [word for details in group for word in re.findall(r"'([^']*)'", _expected(details))]
    meant = close(found, valid) if isinstance(found, str) else ""
    return f"{message}; did you mean {meant!r}?" if meant else message


def _unknown_key(path: KeyPath, keys: Sequence[KeyPath], own: Sequence[str]) -> str:
    """`own`: the keys of the very object it stands in; those of another type are no help there."""
    without_indexes = tuple(part for part in path if isinstance(part, str))
    beside = without_indexes[:-1]
    if without_indexes in keys:
        return f"unknown key for the type chosen here; its keys: {', '.join(own)}"
    if own:
        keys = [*((*beside, name) for name in own), *(key for key in keys if key[:-1] != beside)]
    meant = [dotted((*path[:-1], key[-1]) if key[:-1] == beside else key) for key in suggest(without_indexes, keys)]
    return f"unknown key; did you mean {' or '.join(meant)}?" if meant else "unknown key"


def _wanted(details: ErrorDetails) -> str:
    context = details.get("ctx", {})
    if details["type"] in _BOUNDS:
        return _BOUNDS[details["type"]].format(**context)
    family = details["type"].partition("_")[0]
    if family in _WANTED:
        return _WANTED[family].format(**context)
    return details["msg"][0].lower() + details["msg"][1:]


def _expected(details: ErrorDetails) -> str:
    context = details.get("ctx", {})
    return str(context.get("expected", context.get("expected_tags", "")))


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def _without(values: Any, path: KeyPath) -> Any:
    """`values` without the key at `path`, which passes through objects only."""
    if not isinstance(values, dict) or path[0] not in values:
        return values
    kept = {key: value for key, value in values.items() if key != path[0]}
    return {**kept, path[0]: _without(values[path[0]], path[1:])} if len(path) > 1 else kept
