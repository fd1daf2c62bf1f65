"""A shard: the documents of one source and one split as a safetensors file, written once and memory-mapped after.

Tensors: `tokens` uint16 or uint32 (N,), `document_starts` int64 (D,), `document_bytes` int64 (D,) and `sources` uint32
(D,), the index of each document's input in the header's list. Every document starts with the end-of-document token.
"""

import hashlib
import json
import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save

from dreamlm.core.errors import DataError
from dreamlm.data_sources.durable import write_durably

HEADER_KEY = "dreamlm"  # a single key, because safetensors writes several in no fixed order
DTYPES: dict[str, np.dtype[Any]] = {"U16": np.dtype("<u2"), "U32": np.dtype("<u4"), "I64": np.dtype("<i8")}
TENSORS = ("tokens", "document_starts", "document_bytes", "sources")
REBUILD_HINT = "`dreamlm prepare` builds the corpus anew"


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

    @property
    def document_lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each document, its end-of-document token included."""
        return np.diff(self.document_starts, append=len(self.tokens))


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """The smallest of the two dtypes that holds every id."""
    return DTYPES["U16"] if vocab_size <= 2**16 else DTYPES["U32"]


def write_shard(path: Path, shard: Shard) -> tuple[int, str]:
    """Write and fsync the file; the same shard gives the same bytes. Returns its size and sha256."""
    header = {
        "documents": len(shard.document_starts),
        "inputs": list(shard.inputs),
        "tokenizer_digest": shard.tokenizer_digest,
        "tokens": len(shard.tokens),
    }
    content = save({name: getattr(shard, name) for name in TENSORS}, {HEADER_KEY: json.dumps(header, sort_keys=True)})
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
        arrays = {name: _array(mapped, entries[name], 8 + header_bytes) for name in TENSORS}
        header = json.loads(entries["__metadata__"][HEADER_KEY])
        return Shard(**arrays, inputs=tuple(header["inputs"]), tokenizer_digest=header["tokenizer_digest"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError("not a shard, or a damaged one", where=str(path), hint=REBUILD_HINT) from error


def _array(mapped: mmap.mmap, entry: dict[str, Any], data_start: int) -> npt.NDArray[Any]:
    start, _ = entry["data_offsets"]
    return np.frombuffer(mapped, DTYPES[entry["dtype"]], entry["shape"][0], data_start + start)
