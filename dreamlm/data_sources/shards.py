"""A shard: the documents of one source and one split as a safetensors file, written once and memory-mapped after.

Tensors: `tokens` uint16 or uint32 (N,), `document_starts` int64 (D,), `document_bytes` int64 (D,) and `sources` uint32
(D,), the index of each document's input in the header's list. Every document starts with the end-of-document token.

Where a source has pictures, the places of a document's picture stand behind that token, as ids above the tokenizer's,
and there are two tensors more: `pixels` uint8 (I, 3, H, W), and `pictures` uint32 (D,), which of them a document shows.
"""

import hashlib
import json
import math
import mmap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save

from dreamlm.core.errors import DataError
from dreamlm.data_sources.durable import write_durably

HEADER_KEY = "dreamlm"  # a single key, because safetensors writes several in no fixed order
DTYPES: dict[str, np.dtype[Any]] = {
    "U8": np.dtype("u1"),
    "U16": np.dtype("<u2"),
    "U32": np.dtype("<u4"),
    "I64": np.dtype("<i8"),
}
TENSORS = ("tokens", "document_starts", "document_bytes", "sources")
PICTURE_TENSORS = ("pixels", "pictures")
REBUILD_HINT = "`dreamlm prepare` builds the corpus anew"


def _no_pixels() -> npt.NDArray[np.uint8]:
    return np.empty((0, 3, 0, 0), dtype=np.uint8)


def _no_pictures() -> npt.NDArray[np.uint32]:
    return np.empty(0, dtype=np.uint32)


@dataclass(frozen=True)
class Shard:
    """The arrays of one shard; memory-mapped and read-only when it comes from a file."""

    tokens: npt.NDArray[np.uint16] | npt.NDArray[np.uint32]
    document_starts: npt.NDArray[np.int64]
    document_bytes: npt.NDArray[np.int64]
    sources: npt.NDArray[np.uint32]
    inputs: tuple[str, ...]
    """What `sources` points into."""
    tokenizer_digest: str
    pixels: npt.NDArray[np.uint8] = field(default_factory=_no_pixels)
    """(I, 3, H, W)"""
    pictures: npt.NDArray[np.uint32] = field(default_factory=_no_pictures)
    """(D,) which picture each document shows; empty when documents have none."""
    places: int = 0
    """How many tokens of each document, behind its first one, stand for its picture."""

    @property
    def document_lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each document, its end-of-document token and the places of its picture included."""
        return np.diff(self.document_starts, append=len(self.tokens))

    def text(self, document: int, most: int | None = None) -> list[int]:
        """The ids of a document's text, or the first `most` of them."""
        begin = int(self.document_starts[document]) + 1 + self.places
        end = int(self.document_starts[document]) + int(self.document_lengths[document])
        ids: list[int] = self.tokens[begin : end if most is None else min(end, begin + most)].tolist()
        return ids


def token_dtype(ids: int) -> np.dtype[Any]:
    """The smallest of the two dtypes that holds so many ids."""
    return DTYPES["U16"] if ids <= 2**16 else DTYPES["U32"]


def write_shard(path: Path, shard: Shard) -> tuple[int, str]:
    """Write and fsync the file; the same shard gives the same bytes. Returns its size and sha256."""
    header = {
        "documents": len(shard.document_starts),
        "inputs": list(shard.inputs),
        "tokenizer_digest": shard.tokenizer_digest,
        "tokens": len(shard.tokens),
    }
    tensors: tuple[str, ...] = TENSORS
    if shard.places:
        header["places"], tensors = shard.places, (*TENSORS, *PICTURE_TENSORS)
    content = save({name: getattr(shard, name) for name in tensors}, {HEADER_KEY: json.dumps(header, sort_keys=True)})
    write_durably(path, content)
    return len(content), hashlib.sha256(content).hexdigest()


def open_shard(path: Path) -> Shard:
    """Map the file into memory; nothing but the header is read. Raises: DataError when it is missing or damaged."""
    try:
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise DataError(f"shard cannot be opened: {error}", where=str(path), hint=REBUILD_HINT) from error
    try:
        header_bytes = int.from_bytes(mapped[:8], "little")
        entries = json.loads(mapped[8 : 8 + header_bytes])
        header = json.loads(entries["__metadata__"][HEADER_KEY])
        tensors = (*TENSORS, *PICTURE_TENSORS) if "places" in header else TENSORS
        return Shard(
            **{name: _array(mapped, entries[name], 8 + header_bytes) for name in tensors},
            inputs=tuple(header["inputs"]),
            tokenizer_digest=header["tokenizer_digest"],
            places=header.get("places", 0),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise DataError("not a shard, or a damaged one", where=str(path), hint=REBUILD_HINT) from error


def _array(mapped: mmap.mmap, entry: dict[str, Any], data_start: int) -> npt.NDArray[Any]:
    start, _ = entry["data_offsets"]
    shape = entry["shape"]
    return np.frombuffer(mapped, DTYPES[entry["dtype"]], math.prod(shape), data_start + start).reshape(shape)
