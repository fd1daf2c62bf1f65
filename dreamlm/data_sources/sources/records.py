"""Turning one record (a mapping of field names to values) into text, as `fields` and `format` ask."""

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dreamlm.core.errors import UserMistake

Record = Mapping[str, Any]

FIELDS_SHOWN = 30
USED_PART_VERSION = 2
"""Raise it when `RecordFormat.used_part` keeps another part of a record: what was kept before is read again then."""


class UnusableRecord(Exception):
    """A record that gives no text; its message is the reason under which it is counted."""


@dataclass
class RecordFormat:
    """How a record becomes text. With a format: the filled-in format. With fields alone: their values, one a line.

    With neither: the field `text`, or in records without it one that was the only one with a string in the first record
    of an input; so each reading of a source takes a format of its own, and shows it inputs from the beginning.
    """

    fields: tuple[str, ...] = ()
    format: str | None = None
    _found: list[str] = field(default_factory=list, init=False)
    """The fields that first records of inputs decided on."""

    def check(self, record: Record, where: str) -> None:
        """Compare the wanted fields with the first record of an input.

        Raises: UserMistake naming the fields that the record has.
        """
        for name in self.named():
            if name not in record:
                raise _misfit(f"the records have no field {name!r}", record, where)
        if not self.named() and self._text_field(record, is_first=True) is None:
            raise _misfit("the records have no field `text`: say with `fields` or `format` what to read", record, where)

    def text_of(self, record: Record) -> str:
        """The record's text. Raises: UnusableRecord when a field is missing, null, empty or no text."""
        if self.format is None:
            names = self.fields or (self._text_field(record) or "text",)
            return "\n".join(_plain(name, _value(record, name)) for name in names)
        values = {name: _value(record, name) for name in format_fields(self.format)}
        try:
            return _PlainFormatter().vformat(self.format, (), values)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise UnusableRecord(f"does not fit the format ({type(error).__name__})") from error

    def used_part(self, record: Record) -> Record:
        """The fields of a record that its text is made of; `text_of` says the same of this part as of the record."""
        if self.named():
            return {name: record[name] for name in self.named() if name in record}
        name = self._text_field(record)
        return {name: record[name]} if name is not None and name in record else {}

    def named(self) -> Sequence[str]:
        """The fields that the configuration names."""
        return format_fields(self.format) if self.format is not None else self.fields

    def _text_field(self, record: Record, is_first: bool = False) -> str | None:
        name = next((name for name in ("text", *self._found) if name in record), None)
        if name is None and (is_first or not self._found) and (name := _only_text_field(record)) is not None:
            self._found.append(name)
        return name if name is not None or is_first else next(iter(self._found), None)


class _PlainFormatter(string.Formatter):
    """Puts in what is text or a number, and no Python syntax for what is neither."""

    def get_field(self, field_name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        value, first = super().get_field(field_name, args, kwargs)
        _plain(field_name, value)
        return value, first


def format_fields(template: str) -> list[str]:
    """The fields that a format names, in order; `{answers[0][text]}` names `answers`.

    Raises: ValueError when the format has an unbalanced brace or a field without a name.
    """
    names: list[str] = []
    for _, expression, specification, _ in string.Formatter().parse(template):
        if expression is None:
            continue
        name = expression.split(".")[0].split("[")[0]
        if not name or name.isdigit():
            raise ValueError("every {} in a format needs the name of a field, as in {question}; a plain brace is {{")
        if specification and "{" in specification:
            raise ValueError(f"the format specification of {name!r} must not hold a field itself")
        names.append(name)
    return names


def check_format(fields: Sequence[str], template: str | None) -> None:
    """Find the mistakes of a configuration that no record is needed to see.

    Raises: ValueError when the format is malformed, names no field, or names one that `fields` leaves out.
    """
    if template is None:
        return
    names = format_fields(template)
    if not names:
        example = fields[0] if fields else "text"
        raise ValueError(f"the format names no field; one stands in single braces, as in {{{example}}}")
    for name in names:
        if fields and name not in fields:
            raise ValueError(f"the format names {name!r}, which `fields` does not list: {', '.join(fields)}")


def _misfit(what: str, record: Record, where: str) -> UserMistake:
    """The error of a first record that has not the wanted fields; helps with JSON that nests its records."""
    hint = 'for example "fields": ["question", "answer"], "format": "Q: {question}\\nA: {answer}"'
    if any(_is_nested(value) for value in record.values()):
        hint = 'records inside a JSON document are reached by "records_path", such as "data.paragraphs.qas" or "*"'
    names = [str(name) for name in record]
    more = [f"... and {len(names) - FIELDS_SHOWN} more"] if len(names) > FIELDS_SHOWN else []
    return UserMistake(what, where=where, valid=names[:FIELDS_SHOWN] + more, hint=hint)


def _is_nested(value: object) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and any(isinstance(item, dict) for item in value))


def _only_text_field(record: Record) -> str | None:
    if "text" in record:
        return "text"
    if any(_is_nested(value) for value in record.values()):
        return None
    strings = [name for name, value in record.items() if isinstance(value, str)]
    return strings[0] if len(strings) == 1 else None


def _value(record: Record, name: str) -> Any:
    if name not in record:
        raise UnusableRecord(f"lacks the field {name}")
    return record[name]


def _plain(name: str, value: Any) -> str:
    if value is None:
        raise UnusableRecord(f"field {name} is null")
    if isinstance(value, str):
        if not value.strip():
            raise UnusableRecord(f"field {name} is empty")
        return value
    if isinstance(value, bool | int | float):
        return str(value)
    raise UnusableRecord(f"field {name} is no text but a {type(value).__name__}")
