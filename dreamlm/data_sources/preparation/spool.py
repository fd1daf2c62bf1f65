"""The documents of one source on disk, in the order they came: what every later step reads instead of the source.

Four files: the UTF-8 text of all documents end to end, the names of their inputs, the pixels of their pictures, and an
index of fixed-size entries. Documents in a row that show one picture share it.
"""

import hashlib
import math
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

INDEX_BLOCK = 1 << 16  # entries read at once: 2.9 MB
ENTRY = np.dtype(
    [
        ("start", "<i8"),
        ("bytes", "<i8"),
        ("hash", "<u8"),
        ("name_start", "<i8"),
        ("name_bytes", "<i4"),
        ("picture", "<i8"),
    ]
)
PACKED_ENTRY = struct.Struct("<qqQqiq")  # the same 44 bytes
NO_PICTURE = -1
SUFFIXES = (".text", ".index", ".names", ".pixels")
Entries: TypeAlias = npt.NDArray[Any]
Pixels: TypeAlias = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Spool:
    """A finished spool: where its files are and how much is in them."""

    source: str
    path: Path
    """Of the four files without their suffixes."""
    documents: int
    text_bytes: int
    lowest_hashes: tuple[int, ...]
    """The smallest document hashes, ascending."""
    highest_hash: int
    picture_shape: tuple[int, ...] = ()
    """(3, H, W) of each document's picture; empty when documents have none."""

    @property
    def pixel_bytes(self) -> int:
        """Of one picture; 0 when documents have none."""
        return math.prod(self.picture_shape) if self.picture_shape else 0

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

    def pixels(self) -> Pixels:
        """(I, 3, H, W) all pictures, memory-mapped."""
        flat = np.memmap(self.path.with_suffix(".pixels"), np.uint8, mode="r")
        return flat.reshape(-1, *self.picture_shape)

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
        self._pixels = path.with_suffix(".pixels").open("wb")
        self._name = self._picture = b""
        self._name_start = self._documents = self._text_bytes = self._highest = 0
        self._pictures, self._picture_shape = 0, ()
        self._negated: list[int] = []  # a heap whose root is the largest of the lowest hashes, negated

    def add(self, document: Document, text: bytes, digest: bytes) -> None:
        """Append a document given its UTF-8 text and the digest that decides its side: of its picture, or of its text.

        A source's documents have pictures of one shape, or none of them has one.
        """
        name = document.input.encode("utf-8", "surrogateescape")
        if name != self._name:
            self._name_start = self._names.tell()
            self._names.write(name)
            self._name = name
        number = int.from_bytes(digest[:8], "big")
        picture = NO_PICTURE if document.picture is None else self._keep(document.picture, digest)
        entry = (self._text_bytes, len(text), number, self._name_start, len(name), picture)
        self._index.write(PACKED_ENTRY.pack(*entry))
        self._text.write(text)
        self._documents += 1
        self._text_bytes += len(text)
        self._highest = max(self._highest, number)
        if len(self._negated) < self._lowest:
            heappush(self._negated, -number)
        elif self._negated and number < -self._negated[0]:
            heapreplace(self._negated, -number)

    def _keep(self, picture: Pixels, digest: bytes) -> int:
        """The number of the picture, which is written unless the document before showed it too."""
        if digest != self._picture:
            self._picture, self._picture_shape = digest, picture.shape
            self._pixels.write(picture.tobytes())
            self._pictures += 1
        return self._pictures - 1

    def finish(self) -> Spool:
        """What was written, ready to be read."""
        self.close()
        hashes = tuple(sorted(-number for number in self._negated))
        return Spool(
            self._source,
            self._path,
            self._documents,
            self._text_bytes,
            hashes,
            self._highest,
            self._picture_shape,
        )

    def discard(self) -> None:
        """Remove the files of a source that failed."""
        self.close()
        for suffix in SUFFIXES:
            self._path.with_suffix(suffix).unlink()

    def close(self) -> None:
        """Flush and close the files."""
        for file in (self._text, self._index, self._names, self._pixels):
            file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True)
class Digests:
    """What tells a document from others; 16 bytes each."""

    whole: bytes
    """Equal for exact duplicates: the same text, with the same picture where there is one."""
    side: bytes
    """Decides which documents are held out: of the picture, so that no picture is on both sides, else of the text."""


def digests_of(text: bytes, picture: Pixels | None) -> Digests:
    """The digests of a document."""
    if picture is None:
        digest = _digest(text)
        return Digests(digest, digest)
    side = _digest(np.ascontiguousarray(picture).data)
    return Digests(_digest(side + text), side)


def _digest(content: bytes | memoryview) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()


def _pieces(file: BinaryIO, entries: Entries) -> list[bytes]:
    pieces = []
    for start, length in zip(entries["start"].tolist(), entries["bytes"].tolist(), strict=True):
        file.seek(start)
        pieces.append(file.read(length))
    return pieces
