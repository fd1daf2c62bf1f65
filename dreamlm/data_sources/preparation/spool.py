"""The documents of one source on disk, in the order they came: what every later step reads instead of the source.

Three files: the UTF-8 text of all documents end to end, the names of their inputs, and an index of fixed-size entries.
"""

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from heapq import heappush, heapreplace
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from dreamlm.core.types import Document

INDEX_BLOCK = 1 << 16  # entries read at once: 2.4 MB
ENTRY = np.dtype([("start", "<i8"), ("bytes", "<i8"), ("hash", "<u8"), ("name_start", "<i8"), ("name_bytes", "<i4")])
PACKED_ENTRY = struct.Struct("<qqQqi")  # the same 36 bytes
Entries: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True)
class Spool:
    """A finished spool: where its files are and how much is in them."""

    source: str
    path: Path
    """Of the three files without their suffixes."""
    documents: int
    text_bytes: int
    lowest_hashes: tuple[int, ...]
    """The smallest document hashes, ascending."""

    def entries(self, first: int = 0, stop: int | None = None) -> Iterator[tuple[int, Entries]]:
        """The index from entry `first` on, in blocks: the number of the block's first entry, and the entries."""
        stop = self.documents if stop is None else stop
        for start in range(first, stop, INDEX_BLOCK):
            count = min(INDEX_BLOCK, stop - start)
            yield start, np.fromfile(self.path.with_suffix(".index"), ENTRY, count, offset=start * ENTRY.itemsize)

    def texts(self, entries: Entries, batch_bytes: int) -> Iterator[tuple[Entries, list[bytes]]]:
        """The documents of the entries, in batches of about `batch_bytes` of UTF-8 text."""
        with self.path.with_suffix(".text").open("rb") as file:
            ends = np.cumsum(entries["bytes"])
            first = 0
            while first < len(entries):
                limit = (ends[first - 1] if first else 0) + batch_bytes
                stop = max(first + 1, int(np.searchsorted(ends, limit, side="right")))
                yield entries[first:stop], _pieces(file, entries[first:stop])
                first = stop

    def names(self, entries: Entries) -> list[str]:
        """The input of each entry."""
        with self.path.with_suffix(".names").open("rb") as file:
            known: dict[int, str] = {}
            for start, length in zip(entries["name_start"].tolist(), entries["name_bytes"].tolist(), strict=True):
                if start not in known:
                    file.seek(start)
                    known[start] = file.read(length).decode("utf-8", "surrogateescape")
            return [known[start] for start in entries["name_start"].tolist()]


class SpoolWriter:
    """Appends documents; holds nothing but a file buffer and the few lowest hashes."""

    def __init__(self, source: str, path: Path, lowest: int) -> None:
        """`lowest`: how many of the smallest document hashes to remember."""
        self._source, self._path, self._lowest = source, path, lowest
        self._text = path.with_suffix(".text").open("wb")
        self._index = path.with_suffix(".index").open("wb")
        self._names = path.with_suffix(".names").open("wb")
        self._name = b""
        self._name_start = self._documents = self._text_bytes = 0
        self._negated: list[int] = []  # a heap whose root is the largest of the lowest hashes, negated

    def add(self, document: Document, text: bytes, digest: bytes) -> None:
        """Append a document given its UTF-8 text and the digest of that text."""
        name = document.input.encode("utf-8", "surrogateescape")
        if name != self._name:
            self._name_start = self._names.tell()
            self._names.write(name)
            self._name = name
        number = int.from_bytes(digest[:8], "big")
        entry = (self._text_bytes, len(text), number, self._name_start, len(name))
        self._index.write(PACKED_ENTRY.pack(*entry))
        self._text.write(text)
        self._documents += 1
        self._text_bytes += len(text)
        if len(self._negated) < self._lowest:
            heappush(self._negated, -number)
        elif self._negated and number < -self._negated[0]:
            heapreplace(self._negated, -number)

    def finish(self) -> Spool:
        """What was written, ready to be read."""
        self.close()
        hashes = tuple(sorted(-number for number in self._negated))
        return Spool(self._source, self._path, self._documents, self._text_bytes, hashes)

    def discard(self) -> None:
        """Remove the files of a source that failed."""
        self.close()
        for suffix in (".text", ".index", ".names"):
            self._path.with_suffix(suffix).unlink()

    def close(self) -> None:
        """Flush and close the files."""
        for file in (self._text, self._index, self._names):
            file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def text_digest(text: bytes) -> bytes:
    """16 bytes that stand for a document's text: equal for exact duplicates, and the ground for the split."""
    return hashlib.blake2b(text, digest_size=16).digest()


def _pieces(file: BinaryIO, entries: Entries) -> list[bytes]:
    pieces = []
    for start, length in zip(entries["start"].tolist(), entries["bytes"].tolist(), strict=True):
        file.seek(start)
        pieces.append(file.read(length))
    return pieces
