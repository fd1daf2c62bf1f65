"""What was read of a stream stays read, whatever happens to the process or the disk."""

import datetime
import errno
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamlm.data_sources.sources import record_shelf
from dreamlm.data_sources.sources.record_shelf import Marked, PieceWriter, shelf_in
from dreamlm.data_sources.sources.records import RecordFormat, UnusableRecord

LENGTH, RECORDS_PER_MARK = 60, 4


@pytest.fixture(autouse=True, scope="module")
def small_pieces() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(record_shelf, "PIECE_BYTES", 100)
        yield


def stream(start: int) -> Iterator[Marked]:
    for number in range(start, LENGTH):
        mark = {"at": number + 1} if (number + 1) % RECORDS_PER_MARK == 0 else None
        yield {"n": number, "text": "ä\ud800\n" * 3}, mark


def read(folder: Path, stop: int = LENGTH) -> tuple[list[Any], int]:
    """The numbers of the first `stop` records, and where in the stream reading began."""
    found: list[Any] = []
    with shelf_in(folder) as shelf:
        assert shelf is not None
        begin = shelf.mark["at"] if shelf.mark else 0
        assert begin == shelf.count
        for records in (shelf.records(), shelf.keep(stream(begin), dict, lambda message: None)):
            for record in records:
                found.append(record["n"])
                if len(found) == stop:
                    return found, begin
    return found, begin


@settings(max_examples=20)
@given(st.lists(st.integers(1, LENGTH), max_size=5))
def test_however_often_reading_stops_every_record_comes_once_and_in_order(stops: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        furthest = 0
        for stop in stops:
            found, begin = read(Path(folder), stop)
            assert found == list(range(stop))
            assert begin <= furthest
            furthest = max(furthest, stop)
        found, begin = read(Path(folder))
        assert found == list(range(LENGTH))
        assert begin >= furthest - 2 * RECORDS_PER_MARK


@pytest.mark.parametrize("harm", ["cut", "flipped", "emptied", "deleted"])
@pytest.mark.parametrize("number", [0, 3])
def test_a_damaged_piece_and_those_after_it_are_read_again(tmp_path: Path, harm: str, number: int) -> None:
    read(tmp_path)
    pieces = sorted(tmp_path.glob("*.zst"))
    piece, content = pieces[number], pieces[number].read_bytes()
    if harm == "deleted":
        piece.unlink()
    else:
        flipped = content[:20] + bytes([content[20] ^ 255]) + content[21:]
        piece.write_bytes({"cut": content[:-9], "flipped": flipped, "emptied": b""}[harm])
    _, begin = read(tmp_path, 1)
    assert begin == number * LENGTH // len(pieces)
    assert len(list(tmp_path.glob("*.zst"))) == number
    assert read(tmp_path)[0] == list(range(LENGTH))


def test_no_part_of_a_piece_is_left_behind(tmp_path: Path) -> None:
    read(tmp_path, 3)
    assert {path.name for path in tmp_path.iterdir()} <= {".lock"}


def test_a_shelf_in_use_is_left_alone(tmp_path: Path) -> None:
    with shelf_in(tmp_path) as first, shelf_in(tmp_path) as second:
        assert first is not None
        assert second is None


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (TypeError("no JSON"), "no JSON"),
    ],
)
def test_what_cannot_be_written_ends_the_keeping_but_not_the_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: Exception, reason: str
) -> None:
    add = PieceWriter.add

    def failing(self: PieceWriter, record: Mapping[str, Any], mark: Any) -> None:
        if record["n"] == 30:
            raise broken
        add(self, record, mark)

    monkeypatch.setattr(PieceWriter, "add", failing)
    notices: list[str] = []
    with shelf_in(tmp_path) as shelf:
        assert shelf is not None
        assert [record["n"] for record in shelf.keep(stream(0), dict, notices.append)] == list(range(LENGTH))
    assert len(notices) == 1
    assert reason in notices[0]
    assert read(tmp_path, 1)[1] in range(20, 31)


def test_a_record_that_is_no_json_is_a_type_error(tmp_path: Path) -> None:
    with PieceWriter(tmp_path, 0) as writer, pytest.raises(TypeError):
        writer.add({"when": datetime.date(2020, 1, 1)}, None)


VALUES = st.one_of(
    st.none(), st.sampled_from(["", " ", "word", "ä\ud800"]), st.integers(), st.lists(st.integers(), max_size=2)
)
FORMATS = [RecordFormat(), RecordFormat(("a", "b")), RecordFormat((), "{a} and {b}"), RecordFormat((), "{text}")]


def said_of(form: RecordFormat, record: Mapping[str, Any]) -> str:
    try:
        return form.text_of(record)
    except UnusableRecord as reason:
        return f"unusable: {reason}"


@given(st.sampled_from(FORMATS), st.dictionaries(st.sampled_from(["a", "b", "c", "text"]), VALUES))
def test_the_used_part_of_a_record_gives_the_text_of_the_record(form: RecordFormat, record: dict[str, Any]) -> None:
    assert said_of(replace(form), replace(form).used_part(record)) == said_of(replace(form), record)
