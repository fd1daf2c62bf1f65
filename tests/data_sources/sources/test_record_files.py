"""One bad line or row costs itself and nothing else, and is counted."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dreamlm.data_sources.sources import record_files
from dreamlm.data_sources.sources.files import InputFile
from dreamlm.data_sources.sources.record_files import RecordOptions, read_records
from dreamlm.data_sources.sources.source import SourceReport

GOOD = [{"text": f"number {n}"} for n in range(3)]
LINES = "".join(json.dumps(record) + "\n" for record in GOOD).encode()


def read(path: Path, content: bytes, kind: str, **options: Any) -> tuple[list[Any], SourceReport]:
    path.write_bytes(content)
    report = SourceReport("mine")
    file = InputFile(path, path.name, "")
    return list(read_records(file, kind, RecordOptions(**options), report)), report


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a"])
@pytest.mark.parametrize("first", [b"# a comment\n", b'{"text": "cut\n', b"\n7\n", b"caf\xe9\n", b"\xef\xbb\xbf\nno\n"])
def test_json_lines_may_begin_with_a_damaged_line(tmp_path: Path, name: str, first: bytes) -> None:
    found, report = read(tmp_path / name, first + LINES, "json")
    assert found == GOOD
    assert sum(report.drops.values()) == 1
    (example,) = next(iter(report.examples.values()))
    assert example.startswith(name)


def test_an_overlong_first_line_is_skipped_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_files, "LONGEST_LINE_BYTES", 50)
    found, report = read(tmp_path / "a.jsonl", json.dumps({"text": "x" * 500}).encode() + b"\n" + LINES, "jsonl")
    assert found == GOOD
    assert report.examples == {"record: line of over 0 MiB": ["a.jsonl line 1"]}


def test_the_line_of_a_damaged_record_is_named(tmp_path: Path) -> None:
    found, report = read(tmp_path / "a.jsonl", LINES + b"\n{broken\n" + LINES, "jsonl")
    assert found == GOOD + GOOD
    assert report.examples == {"record: no JSON": ["a.jsonl line 5"]}


@pytest.mark.parametrize("content", [b'[\n{"text": "one"},\n{"text": "tw', b"no JSON at all\n" * 5, b"7\n8\n"])
def test_a_file_without_any_record_is_damaged_as_a_whole(tmp_path: Path, content: bytes) -> None:
    found, report = read(tmp_path / "a.json", content, "json")
    assert found == []
    assert report.drops == {"file: damaged or no json": 1}


def test_a_large_file_is_read_in_lines_only_where_it_has_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record_files, "LARGEST_JSON_BYTES", 20)
    assert read(tmp_path / "a.jsonl", b"# a comment\n" + LINES, "jsonl")[0] == GOOD
    array = json.dumps(GOOD, indent=1).encode()
    assert read(tmp_path / "a.json", array, "json")[1].drops == {"file: JSON of over 0 MiB that is not JSON Lines": 1}


def rows(count: int, bad: int) -> Iterator[bytes]:
    for n in range(count):
        yield f"caf\xe9 {n}".encode("latin-1" if n == bad else "utf-8")


def test_a_bad_byte_costs_a_table_one_row(tmp_path: Path) -> None:
    content = b"id,text\n" + b"".join(b"%d,%s\n" % (n, row) for n, row in enumerate(rows(5000, bad=999)))
    found, report = read(tmp_path / "a.csv", content, "csv")
    assert [int(row["id"]) for row in found] == [n for n in range(5000) if n != 999]
    assert report.drops == {"record: not in UTF-8": 1}
    assert report.examples == {"record: not in UTF-8": ["a.csv line 1001"]}


def test_a_header_that_is_not_in_utf8_names_no_column(tmp_path: Path) -> None:
    found, report = read(tmp_path / "a.csv", "caf\xe9,text\none,two\n".encode("latin-1"), "csv")
    assert found == []
    assert report.drops == {"file: its header is not in UTF-8": 1}


@pytest.mark.parametrize("end", ["\n", ""])
@pytest.mark.parametrize("before", ["", "\n\n"])
def test_a_quote_that_is_never_closed_costs_a_table_one_line(tmp_path: Path, before: str, end: str) -> None:
    good = [f"{n},{'x' * n}" for n in range(50)]
    content = "\n".join(["id,text", *good[:20], f'{before}20,"cut', *good[21:]]) + end
    found, report = read(tmp_path / "a.csv", content.encode(), "csv")
    assert [f"{row['id']},{row['text']}" for row in found] == [*good[:20], *good[21:]]
    assert report.drops == {"record: a quote that is never closed": 1}
    assert report.examples == {"record: a quote that is never closed": [f"a.csv line {22 + len(before)}"]}


def test_a_quote_that_is_never_closed_makes_of_one_column_no_giant(tmp_path: Path) -> None:
    found, _ = read(tmp_path / "a.csv", b'text\n"o\nne"\n"two\nthree\nfour', "csv")
    assert [row["text"] for row in found] == ["o\nne", "three", "four"]


def test_a_quoted_field_may_have_many_lines(tmp_path: Path) -> None:
    found, report = read(tmp_path / "a.csv", b'id,text\n1,"one\n\ntwo"\n2,"last ""of""\nthem"', "csv")
    assert [row["text"] for row in found] == ["one\n\ntwo", 'last "of"\nthem']
    assert report.drops == {}


def test_a_quoted_field_longer_than_the_longest_line_costs_its_first_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record_files, "LONGEST_LINE_BYTES", 100)
    good = [f"{n},{'x' * 30}" for n in range(9)]
    found, report = read(tmp_path / "a.csv", "\n".join(["id,text", '0,"cut', *good[1:]]).encode(), "csv")
    assert [f"{row['id']},{row['text']}" for row in found] == good[1:]
    assert report.examples == {"record: a quote that is never closed": ["a.csv line 2"]}


def test_an_overlong_line_of_a_table_is_skipped_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_files, "LONGEST_LINE_BYTES", 50)
    content = f"id,text\n1,one\n2,{'x' * 500}\n3,three\n4,a,b\n".encode()
    found, report = read(tmp_path / "a.csv", content, "csv")
    assert [row["text"] for row in found] == ["one", "three"]
    assert report.examples == {
        "record: line of over 0 MiB": ["a.csv line 3"],
        "record: 3 columns instead of 2": ["a.csv line 5"],
    }


def test_a_header_whose_quote_is_never_closed_names_no_column(tmp_path: Path) -> None:
    found, report = read(tmp_path / "a.csv", b'"id,text\n1,one\n', "csv")
    assert found == []
    assert report.drops == {"file: its header has a quote that is never closed": 1}


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf"])
def test_a_table_without_a_header_is_empty(tmp_path: Path, content: bytes) -> None:
    found, report = read(tmp_path / "a.csv", content, "csv")
    assert (found, report.drops) == ([], {"file: empty": 1})


def test_a_table_may_begin_with_blank_lines(tmp_path: Path) -> None:
    found, report = read(tmp_path / "a.csv", b"\r\n\nid,text\n1,one\n2\n", "csv")
    assert found == [{"id": "1", "text": "one"}]
    assert report.examples == {"record: 1 columns instead of 2": ["a.csv line 5"]}


def test_a_bad_byte_costs_lines_of_text_one_line(tmp_path: Path) -> None:
    found, report = read(tmp_path / "a.txt", b"\n".join(rows(5000, bad=999)), "text")
    assert [record["text"] for record in found] == [f"caf\xe9 {n}" for n in range(5000) if n != 999]
    assert report.examples == {"record: not in UTF-8": ["a.txt line 1000"]}


def test_json_lines_are_not_called_damaged_for_a_path_that_they_lack(tmp_path: Path) -> None:
    found, report = read(tmp_path / "a.jsonl", LINES, "jsonl", records_path="data")
    assert found == []
    assert report.drops == {"file: JSON Lines, which have no records_path": 1}


FAR = 253402297200000000
"""Microseconds to a moment that is in the year 10000 in Berlin."""


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (pa.timestamp("us", tz="Europe/Berlin"), FAR),
        (pa.timestamp("us"), 2**62),
        (pa.timestamp("us", tz="Mars/Olympus"), 1),
        (pa.date32(), 2**30),
        (pa.duration("s"), 2**62),
    ],
)
@pytest.mark.parametrize("wanted", [(), ("text",), ("text", "more")])
def test_a_value_that_python_has_not_costs_its_row_where_it_is_wanted(
    tmp_path: Path, kind: pa.DataType, value: int, wanted: tuple[str, ...]
) -> None:
    others = pa.array([value if n in (3, 700) else None for n in range(1000)], kind)
    table = pa.table({"text": [f"number {n}" for n in range(1000)], "more": others})
    pq.write_table(table, tmp_path / "made.parquet")
    found, report = read(tmp_path / "a.parquet", (tmp_path / "made.parquet").read_bytes(), "parquet", wanted=wanted)
    kept = [int(row["text"].split()[1]) for row in found]
    if wanted == ("text",):
        assert (kept, report.drops) == (list(range(1000)), {})
    else:
        assert kept == [n for n in range(1000) if n not in (3, 700)]
        assert report.drops == {"record: holds a value that Python has not": 2}
        assert [example.split(" (")[0] for example in report.examples["record: holds a value that Python has not"]] == [
            "a.parquet row 4",
            "a.parquet row 701",
        ]


def test_a_table_without_a_wanted_field_gives_those_that_it_has(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["one"], "title": ["two"]}), tmp_path / "made.parquet")
    content = (tmp_path / "made.parquet").read_bytes()
    found, _ = read(tmp_path / "a.parquet", content, "parquet", wanted=("text", "question"))
    assert found == [{"text": "one", "title": "two"}]
