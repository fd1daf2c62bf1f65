"""safetensors files: written in one pass that hashes as it writes, and their headers read without torch.

Layout (the safetensors format): 8 bytes little-endian header length, a JSON header padded with spaces, then the data
of all tensors without gaps, those with the widest elements first, so that every tensor is aligned.
"""

import hashlib
import io
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from math import prod
from pathlib import Path

from dreamlm.checkpoints.manifest import Digest
from dreamlm.core.errors import CheckpointError

ITEM_BYTES = {
    **{"BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2},
    **{"U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8, "C64": 8},
}
_PIECE_BYTES = 1 << 23
_LENGTH_BYTES = 8


@dataclass(frozen=True)
class RawTensor:
    """A tensor as it goes to disk: contiguous, little-endian."""

    dtype: str
    """A key of `ITEM_BYTES`."""
    shape: tuple[int, ...]
    data: memoryview
    """Flat bytes; may share memory with the live tensor."""


@dataclass(frozen=True)
class TensorEntry:
    """What a safetensors header says of one tensor."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    """First byte of its data, counted from the beginning of the file."""
    end: int

    @property
    def elements(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True)
class TensorFile:
    """The header of a safetensors file."""

    path: Path
    metadata: Mapping[str, str]
    entries: Mapping[str, TensorEntry]
    """By tensor name, in the order of the data."""


def write_tensors(
    path: Path, tensors: Mapping[str, RawTensor], metadata: Mapping[str, str], hashing: Executor
) -> Future[Digest]:
    """Write a safetensors file; its digest is taken from memory meanwhile, in a thread of `hashing`.

    Nothing may change the tensors before the digest is there.
    """
    order = sorted(tensors, key=lambda name: (-ITEM_BYTES[tensors[name].dtype], name))
    pieces = [_header(order, tensors, metadata), *(tensors[name].data for name in order)]
    digest = hashing.submit(_digest, pieces)
    with path.open("wb", buffering=0) as file:
        for data in pieces:
            _write_all(file, data)
    return digest


def read_header(path: Path) -> TensorFile:
    """Names, types, shapes and places of the tensors in a file; reads no tensor.

    Raises: CheckpointError when the file is not safetensors.
    """
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            if not 2 <= length <= size - _LENGTH_BYTES:
                raise ValueError(f"its header claims {length:,} bytes, the file has {size:,}")
            header = json.loads(file.read(length))
        base = _LENGTH_BYTES + length
        metadata = header.pop("__metadata__", {})
        entries = {name: _entry(fields, base) for name, fields in header.items()}
        if any(entry.end > size for entry in entries.values()):
            raise ValueError("it ends before its last tensor")
    except FileNotFoundError as error:
        raise CheckpointError(f"{path.name} is missing", where=str(path.parent)) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path.name} is not a safetensors file: {error}",
            where=str(path),
            hint="dreamlm ckpt verify checks a snapshot",
        ) from error
    ordered = sorted(entries, key=lambda name: entries[name].start)
    return TensorFile(path, metadata, {name: entries[name] for name in ordered})


def _entry(fields: Mapping[str, Sequence[int] | str], base: int) -> TensorEntry:
    start, end = (int(offset) + base for offset in fields["data_offsets"])
    dtype, shape = str(fields["dtype"]), tuple(int(size) for size in fields["shape"])
    if dtype not in ITEM_BYTES or end - start != prod(shape) * ITEM_BYTES[dtype]:
        raise ValueError(f"a tensor of {dtype} {list(shape)} cannot have {end - start:,} bytes")
    return TensorEntry(dtype, shape, start, end)


def _header(order: Sequence[str], tensors: Mapping[str, RawTensor], metadata: Mapping[str, str]) -> memoryview:
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for name in order:
        tensor = tensors[name]
        end = offset + len(tensor.data)
        header[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _LENGTH_BYTES)
    return memoryview(len(text).to_bytes(_LENGTH_BYTES, "little") + text)


def _digest(pieces: Sequence[memoryview]) -> Digest:
    sha256 = hashlib.sha256()
    for data in pieces:
        sha256.update(data)
    return Digest(sum(len(data) for data in pieces), sha256.hexdigest())


def _write_all(file: io.FileIO, data: memoryview) -> None:
    written = 0
    while written < len(data):
        count = file.write(data[written : written + _PIECE_BYTES])
        if hasattr(os, "posix_fadvise"):  # the device starts on this piece now, so that the fsync at the end is short
            os.posix_fadvise(file.fileno(), file.tell() - count, count, os.POSIX_FADV_DONTNEED)
        written += count
