"""What was read of a stream, kept on disk in pieces: a preparation that was killed goes on where the last piece ends.

A piece is a compressed file of records, one JSON value a line, with the stream's position after them in its last line.
It gets its name when it is complete and on the disk. A damaged piece is deleted with all that follow it, and read
again: the stream is the truth, and deleting a shelf costs time only. One process at a time uses a shelf.
"""

import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeAlias, final

import zstandard
from filelock import FileLock, Timeout

from dreamlm.core.durable import sync_folder
from dreamlm.data_sources.durable import sync_file
from dreamlm.data_sources.retry import reason_of

Mark: TypeAlias = dict[str, Any]
"""A position in a stream, as `datasets` gives and takes it."""
Marked: TypeAlias = tuple[Mapping[str, Any], Mark | None]
"""A record and, now and then, the position after it."""

PIECE_BYTES = 4 << 20
"""About how much JSON goes into a piece. A kill costs what came after the last piece."""


@contextmanager
def shelf_in(folder: Path) -> Iterator["RecordShelf | None"]:
    """The shelf in a folder, which appears as needed; None while another process uses it."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield None
        return
    try:
        yield RecordShelf(folder)
    finally:
        lock.release()


@dataclass(frozen=True)
class Piece:
    """A file of records, and the position after them."""

    path: Path
    count: int
    mark: Mark

    def records(self) -> Iterator[Mapping[str, Any]]:
        """The records, in the stream's order."""
        with _reading(self.path) as lines:
            for _ in range(self.count):
                yield json.loads(next(lines))


@final
class RecordShelf:
    """The pieces of one stream. Cost to open: reads every piece once, to see that it is sound."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pieces = _sound_pieces(folder)

    @property
    def count(self) -> int:
        """Records there are."""
        return sum(piece.count for piece in self._pieces)

    @property
    def mark(self) -> Mark | None:
        """The position after them; None when there is no record yet."""
        return self._pieces[-1].mark if self._pieces else None

    def records(self) -> Iterator[Mapping[str, Any]]:
        """The records that are there, in the stream's order."""
        for piece in self._pieces:
            yield from piece.records()

    def keep(
        self,
        rest: Iterable[Marked],
        part: Callable[[Mapping[str, Any]], Mapping[str, Any]],
        on_notice: Callable[[str], None],
    ) -> Iterator[Mapping[str, Any]]:
        """The records that follow those on the shelf; of each its `part` is written down before it is given away.

        What cannot be written ends the keeping, with a notice, but not the records.
        """
        with PieceWriter(self._folder, len(self._pieces)) as writer:
            keeping = True
            for record, mark in rest:
                try:
                    if keeping:
                        writer.add(part(record), mark)
                except (OSError, TypeError) as error:
                    keeping = False
                    on_notice(f"records are not kept any more, an interruption costs more time: {reason_of(error)}")
                yield record


@final
class PieceWriter:
    """Writes pieces one after the other; what is not a whole piece goes when the block ends."""

    def __init__(self, folder: Path, number: int) -> None:
        self._folder, self._number = folder, number
        self._part = folder / "next.part"
        self._stream: Any = None
        self._bytes = 0

    def __enter__(self) -> "PieceWriter":
        return self

    def __exit__(self, *exception: object) -> None:
        with suppress(OSError):  # of a part that nobody will read
            if self._stream is not None:
                self._stream.close()
        self._part.unlink(missing_ok=True)

    def add(self, record: Mapping[str, Any], mark: Mark | None) -> None:
        """Write a record; at a mark the piece may be complete.  Raises: TypeError when it is no JSON, OSError."""
        line = json.dumps(record).encode() + b"\n"
        if self._stream is None:
            packing = zstandard.ZstdCompressor(level=1, write_checksum=True)
            self._stream, self._bytes = packing.stream_writer(self._part.open("wb")), 0
        self._stream.write(line)
        self._bytes += len(line)
        if mark is not None and self._bytes >= PIECE_BYTES:
            self._stream.write(json.dumps({"mark": mark}).encode() + b"\n")
            self._complete()

    def _complete(self) -> None:
        self._stream.close()
        self._stream = None
        sync_file(self._part)
        self._part.rename(self._folder / _name(self._number))
        sync_folder(self._folder)
        self._number += 1


def _name(number: int) -> str:
    return f"{number:06}.jsonl.zst"


def _sound_pieces(folder: Path) -> list[Piece]:
    """The pieces before the first that is missing or damaged; deletes those after it."""
    paths = sorted(folder.glob("*.jsonl.zst"))
    pieces: list[Piece] = []
    for number, path in enumerate(paths):
        piece = _sound(path) if path.name == _name(number) else None
        if piece is None:
            for useless in paths[number:]:
                useless.unlink()
            break
        pieces.append(piece)
    return pieces


def _sound(path: Path) -> Piece | None:
    """The piece in a file, read to its last byte; None when it is damaged."""
    last, lines_before = "", -1
    try:
        with _reading(path) as lines:
            for line in lines:
                last, lines_before = line, lines_before + 1
        return Piece(path, lines_before, json.loads(last)["mark"])
    except (zstandard.ZstdError, OSError, ValueError, KeyError, TypeError):
        return None


@contextmanager
def _reading(path: Path) -> Iterator[IO[str]]:
    with path.open("rb") as packed, zstandard.ZstdDecompressor().stream_reader(packed) as unpacked:
        yield io.TextIOWrapper(io.BufferedReader(unpacked, 1 << 20), encoding="ascii")
