"""What differs between two snapshots: keys of their JSON files, and tensors by shape, type and largest difference.

Imports no torch; tensors are compared in pieces of a few megabytes, whatever their size.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from dreamlm.checkpoints.manifest import read_manifest
from dreamlm.checkpoints.tensors import TensorEntry, read_header
from dreamlm.core.errors import CheckpointError

_PIECE_ELEMENTS = 1 << 20
_NUMPY = {
    **{"BOOL": "?", "U8": "<u1", "I8": "<i1", "U16": "<u2", "I16": "<i2", "F16": "<f2", "U32": "<u4", "I32": "<i4"},
    **{"F32": "<f4", "U64": "<u8", "I64": "<i8", "F64": "<f8", "BF16": "<u2"},
}

Side = Literal["both", "first", "second"]


@dataclass(frozen=True)
class KeyDifference:
    """A value that differs, or that only one side has."""

    file: str
    key: str
    """Dotted; list items by their index."""
    present: Side
    first: Any
    """JSON value; None when it is missing (see `present`)."""
    second: Any


@dataclass(frozen=True)
class TensorDifference:
    """A tensor that differs, or that only one side has."""

    file: str
    name: str
    present: Side
    first: str
    """Type and shape, such as `F32 [256, 64]`; empty when it is missing."""
    second: str
    max_abs_difference: float | None
    """None when the shapes differ, one is missing, or NaN or infinity stands against another value."""


@dataclass(frozen=True)
class Difference:
    """All that differs between two snapshots; record and manifest apart."""

    keys: tuple[KeyDifference, ...]
    tensors: tuple[TensorDifference, ...]
    tensors_equal: int
    """How many tensors are equal bit for bit."""

    @property
    def equal(self) -> bool:
        return not self.keys and not self.tensors


def diff(first: Path, second: Path) -> Difference:
    """Compare every JSON key and every tensor of two snapshot folders.

    Raises: CheckpointError when one is missing or cannot be read.  Cost: reads every byte of both once.
    """
    files = sorted(set(read_manifest(first).files) | set(read_manifest(second).files))
    keys = [one for file in files if file.endswith(".json") for one in _key_differences(file, first, second)]
    tensors: list[TensorDifference] = []
    equal = 0
    for file in files:
        if file.endswith(".safetensors"):
            for outcome in _tensor_differences(file, first / file, second / file):
                if outcome is None:
                    equal += 1
                else:
                    tensors.append(outcome)
    return Difference(tuple(keys), tuple(tensors), equal)


def _key_differences(file: str, first: Path, second: Path) -> Iterator[KeyDifference]:
    left, right = (dict(_flat("", _json(folder / file))) for folder in (first, second))
    for key in [*left, *(key for key in right if key not in left)]:
        if key not in right:
            yield KeyDifference(file, key, "first", left[key], None)
        elif key not in left:
            yield KeyDifference(file, key, "second", None, right[key])
        elif json.dumps(left[key]) != json.dumps(right[key]):  # so that 1 is not 1.0, true is not 1, NaN is NaN
            yield KeyDifference(file, key, "both", left[key], right[key])


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes()) if path.exists() else {}
    except ValueError as error:
        raise CheckpointError(f"{path.name} is not valid JSON: {error}", where=str(path)) from error


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    items: Mapping[str, Any] = value if isinstance(value, dict) else {}
    if isinstance(value, list):
        items = {str(index): item for index, item in enumerate(value)}
    if not items:
        yield prefix, value
    for key, item in items.items():
        yield from _flat(f"{prefix}.{key}" if prefix else key, item)


def _tensor_differences(file: str, first: Path, second: Path) -> Iterator[TensorDifference | None]:
    left, right = (read_header(path).entries if path.exists() else {} for path in (first, second))
    for name in [*left, *(name for name in right if name not in left)]:
        a, b = left.get(name), right.get(name)
        if a is None or b is None:
            yield TensorDifference(file, name, "second" if a is None else "first", _label(a), _label(b), None)
        elif a.shape != b.shape:
            yield TensorDifference(file, name, "both", _label(a), _label(b), None)
        else:
            largest, identical = _compare(first, a, second, b)
            same = identical and a.dtype == b.dtype
            yield None if same else TensorDifference(file, name, "both", _label(a), _label(b), largest)


def _label(entry: TensorEntry | None) -> str:
    return "" if entry is None else f"{entry.dtype} {list(entry.shape)}"


def _compare(first: Path, a: TensorEntry, second: Path, b: TensorEntry) -> tuple[float | None, bool]:
    largest, identical = 0.0, True
    for start in range(0, a.elements, _PIECE_ELEMENTS):
        x, y = _piece(first, a, start), _piece(second, b, start)
        if x.dtype == y.dtype and x.tobytes() == y.tobytes():
            continue
        identical = False
        x, y = _as_float(x, a.dtype), _as_float(y, b.dtype)
        apart = (x != y) & ~(np.isnan(x) & np.isnan(y))
        if not apart.any():
            continue
        with np.errstate(invalid="ignore", over="ignore"):
            most = float(np.abs(x[apart] - y[apart]).max())
        if not np.isfinite(most):
            return None, False
        largest = max(largest, most)
    return largest, identical


def _piece(path: Path, entry: TensorEntry, start: int) -> npt.NDArray[Any]:
    if entry.dtype not in _NUMPY:
        raise CheckpointError(f"values of type {entry.dtype} cannot be compared", where=str(path), valid=sorted(_NUMPY))
    dtype = np.dtype(_NUMPY[entry.dtype])
    count = min(_PIECE_ELEMENTS, entry.elements - start)
    return np.fromfile(path, dtype, count, offset=entry.start + start * dtype.itemsize)


def _as_float(values: npt.NDArray[Any], dtype: str) -> npt.NDArray[np.float64]:
    if dtype == "BF16":  # the upper half of an fp32 number
        values = (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float64)
