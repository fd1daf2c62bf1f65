"""Records out of local files: JSON Lines, JSON, Parquet, CSV/TSV, and plain lines. One record in memory at a time,
except for a JSON file that is one value, which is held whole."""

import codecs
import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, BinaryIO

from dreamlm.core.errors import UserMistake
from dreamlm.data_sources.retry import reason_of
from dreamlm.data_sources.sources.csv_lines import CsvLines
from dreamlm.data_sources.sources.files import InputFile, open_bytes
from dreamlm.data_sources.sources.numbered_lines import numbered_lines
from dreamlm.data_sources.sources.records import Record
from dreamlm.data_sources.sources.source import SourceReport

LONGEST_LINE_BYTES = 64 << 20
"""A longer line of JSON Lines, CSV or text is skipped and counted, so that no file can exhaust the memory."""
LARGEST_JSON_BYTES = 512 << 20
"""A JSON file that is one array or object is read whole; a larger one must become JSON Lines."""
FIRST_LINES = 1000
"""Of a file that is no single JSON value so many lines may be damaged before the first record of JSON Lines."""
NOT_UTF8 = "not in UTF-8"
_NOT_IN_PYTHON = (ValueError, OverflowError, KeyError)
"""What Arrow raises for a value that Python has not; a KeyError for a time zone."""
NEVER_CLOSED = "a quote that is never closed"


@dataclass(frozen=True)
class RecordOptions:
    """How files are divided into records, where that is not plain from the file."""

    records_path: str | None = None
    """Dotted keys that lead to the records inside a JSON document; lists on the way are walked through."""
    column_names: tuple[str, ...] = ()
    """Names of the columns of a CSV file that has no header line."""
    delimiter: str = ","
    wanted: tuple[str, ...] = ()
    """Fields beside which none is looked at, where a file allows that and has them all; empty when all are wanted."""


class UnusableFile(Exception):
    """A file that gives no records; its message is the reason under which it is counted."""


def read_records(file: InputFile, kind: str, options: RecordOptions, report: SourceReport) -> Iterator[Record]:
    """The records of one file in order; what cannot be read is counted. `kind`: json, jsonl, parquet, csv or text.

    Raises: UserMistake when `records_path` does not lead to records.
    """
    report.inputs += 1
    try:
        yield from _READERS[kind](file, options, report)
    except UnusableFile as reason:
        report.drop(f"file: {reason}", file.name)
    except (OSError, EOFError, ValueError, RecursionError, csv.Error) as error:
        report.drop(f"file: damaged or no {kind}", f"{file.name} ({reason_of(error)})")


def _json(file: InputFile, options: RecordOptions, report: SourceReport) -> Iterator[Record]:
    """JSON Lines, whatever the file is called; a file that is one array or object is walked with `records_path`.

    What is no single value is read line by line where a line is a record, whatever became of the others.
    """
    in_lines = options.records_path is None and _has_record(file, 1)
    if not in_lines:
        try:
            document = _single_value(file)
        except (UnusableFile, ValueError, RecursionError):
            in_lines = not _is_list(file) and _has_record(file, FIRST_LINES)
            if not in_lines:
                raise
    if in_lines and options.records_path is not None:
        raise UnusableFile("JSON Lines, which have no records_path")
    if in_lines:
        with open_bytes(file.path) as stream:
            yield from _json_lines(stream, file, report)
        return
    if options.records_path is not None:
        yield from _walk(document, options.records_path.split("."), {}, file.name)
    elif isinstance(document, list):
        yield from _objects(document, file.name, report)
    else:
        yield from _objects([document], file.name, report)


def _single_value(file: InputFile) -> Any:
    """The JSON value that the whole file is.  Raises: UnusableFile, ValueError or RecursionError when it is none."""
    with open_bytes(file.path) as stream:
        content = stream.read(LARGEST_JSON_BYTES + 1)
    if len(content) > LARGEST_JSON_BYTES:
        raise UnusableFile(f"JSON of over {LARGEST_JSON_BYTES >> 20} MiB that is not JSON Lines")
    return json.loads(content)


def _has_record(file: InputFile, most: int) -> bool:
    """Whether one of the first `most` lines that hold anything is a whole JSON object."""
    unheard = SourceReport(file.name)
    with open_bytes(file.path) as stream:
        return next(_json_lines(stream, file, unheard, most), None) is not None


def _is_list(file: InputFile) -> bool:
    """Whether a file is meant to be one list, whole or not: then its last line may look like a record, and is none."""
    with open_bytes(file.path) as stream:
        return next((line for _, line in _lines(stream, file, SourceReport(file.name))), b"").lstrip().startswith(b"[")


def _json_lines(stream: BinaryIO, file: InputFile, report: SourceReport, most: int | None = None) -> Iterator[Record]:
    """The records of the lines, or of the first `most` of them."""
    for number, line in islice(_lines(stream, file, report), most):
        try:
            value = json.loads(line.decode("utf-8-sig"))
        except (ValueError, RecursionError):
            report.drop("record: no JSON", f"{file.name} line {number}")
            continue
        yield from _objects([value], file.name, report)


def _objects(values: Sequence[Any], name: str, report: SourceReport) -> Iterator[Record]:
    for value in values:
        if isinstance(value, dict):
            yield value
        else:
            report.drop("record: no JSON object", name)


def _walk(value: Any, keys: Sequence[str], outer: dict[str, Any], name: str) -> Iterator[Record]:
    """The objects at the end of the keys; each also has the plain fields of the objects around it."""
    if isinstance(value, list):
        for member in value:
            yield from _walk(member, keys, outer, name)
    elif isinstance(value, dict) and not keys:
        yield {**outer, **value}
    elif isinstance(value, dict) and keys[0] in value:
        around = {key: inner for key, inner in value.items() if not isinstance(inner, list | dict)}
        yield from _walk(value[keys[0]], keys[1:], {**outer, **around}, name)
    elif isinstance(value, dict) and keys[0] == "*":
        for member in value.values():
            yield from _walk(member, keys[1:], outer, name)
    else:
        valid = sorted(value) if isinstance(value, dict) else []
        missing = keys[0] if keys else "an object"
        raise UserMistake(f"`records_path` does not lead to records: no {missing!r} here", where=name, valid=valid)


def _parquet(file: InputFile, options: RecordOptions, report: SourceReport) -> Iterator[Record]:
    import pyarrow
    import pyarrow.parquet

    first = 1
    try:
        with open_bytes(file.path) as stream, pyarrow.parquet.ParquetFile(stream) as table:
            has_all = set(options.wanted) <= set(table.schema_arrow.names)
            columns = list(options.wanted) if options.wanted and has_all else None
            for batch in table.iter_batches(batch_size=256, columns=columns):
                yield from _rows_of(batch, first, file, report)
                first += len(batch)
    except pyarrow.ArrowException as error:
        raise ValueError(reason_of(error)) from error


def _rows_of(batch: Any, first: int, file: InputFile, report: SourceReport) -> Iterator[Record]:
    """The rows of a record batch of Arrow's, the first of which has the number `first`.

    Python has not every value that Arrow has: no year 10000, no time zone that this machine does not know.
    """
    try:
        rows = batch.to_pylist()
    except _NOT_IN_PYTHON as error:
        if len(batch) == 1:
            report.drop("record: holds a value that Python has not", f"{file.name} row {first} ({reason_of(error)})")
            return
        half = len(batch) // 2
        yield from _rows_of(batch.slice(0, half), first, file, report)
        yield from _rows_of(batch.slice(half), first + half, file, report)
    else:
        yield from rows


def _csv(file: InputFile, options: RecordOptions, report: SourceReport) -> Iterator[Record]:
    csv.field_size_limit(LONGEST_LINE_BYTES)
    with open_bytes(file.path) as stream:
        text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
        lines = CsvLines(text, LONGEST_LINE_BYTES, partial(_drop_overlong, file, report))
        header = options.column_names or _header(lines, options.delimiter)
        reader = csv.DictReader(lines, header, delimiter=options.delimiter)
        for row in _closed_rows(reader, lines, file, report):
            missing = sum(value is None for value in row.values())
            if missing or None in row:
                found = len(header) - missing if missing else len(header) + len(row[None])
                report.drop(f"record: {found} columns instead of {len(header)}", f"{file.name} line {lines.number}")
            elif not _are_utf8(row.values()):
                report.drop(f"record: {NOT_UTF8}", f"{file.name} line {lines.number}")
            else:
                yield row


def _header(lines: CsvLines, delimiter: str) -> Sequence[str]:
    """The first row that is one.  Raises: UnusableFile when it names no columns."""
    header = next((row for row in csv.reader(lines, delimiter=delimiter) if row), None)
    if header is None:
        raise UnusableFile("empty")
    if lines.ended:
        raise UnusableFile(f"its header has {NEVER_CLOSED}")
    if not _are_utf8(header):
        raise UnusableFile(f"its header is {NOT_UTF8}")
    return header


def _closed_rows(
    reader: Iterator[dict[Any, Any]], lines: CsvLines, file: InputFile, report: SourceReport
) -> Iterator[dict[Any, Any]]:
    """The rows; a quote that is open when the file ends, or a field too long, costs the row's first line alone."""
    while True:
        lines.begin_row()
        try:
            row = next(reader, None)
        except csv.Error:
            row, closed = {}, False
        else:
            closed = not lines.ended
        if row is None:
            return
        if closed:
            yield row
        else:
            report.drop(f"record: {NEVER_CLOSED}", f"{file.name} line {lines.without_its_first()}")


def _are_utf8(values: Iterable[str]) -> bool:
    """Whether no byte had to be escaped as a surrogate, which no UTF-8 text holds."""
    try:
        "".join(values).encode()
    except UnicodeEncodeError:
        return False
    return True


def _text_lines(file: InputFile, options: RecordOptions, report: SourceReport) -> Iterator[Record]:
    with open_bytes(file.path) as stream:
        for number, line in _lines(stream, file, report):
            try:
                text = line.decode("utf-8-sig")
            except UnicodeDecodeError:
                report.drop(f"record: {NOT_UTF8}", f"{file.name} line {number}")
            else:
                yield {"text": text.rstrip("\r\n")}


def _lines(stream: BinaryIO, file: InputFile, report: SourceReport) -> Iterator[tuple[int, bytes]]:
    """The lines that hold anything, numbered from 1; those over the limit are counted."""
    for number, line in numbered_lines(stream, (b"\n",), LONGEST_LINE_BYTES, partial(_drop_overlong, file, report)):
        if line.removeprefix(codecs.BOM_UTF8).strip():
            yield number, line


def _drop_overlong(file: InputFile, report: SourceReport, number: int) -> None:
    report.drop(f"record: line of over {LONGEST_LINE_BYTES >> 20} MiB", f"{file.name} line {number}")


_READERS: dict[str, Callable[[InputFile, RecordOptions, SourceReport], Iterator[Record]]] = {
    "csv": _csv,
    "json": _json,
    "jsonl": _json,
    "parquet": _parquet,
    "text": _text_lines,
}
