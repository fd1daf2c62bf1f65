"""A snapshot in memory and as a folder: model, optimizer, state, configuration and tokenizer, without pickle.

    model.safetensors  optimizer.safetensors  state.json  config.json  preset.json  tokenizer*.json
    heads.safetensors, where something is trained beside the model

Floats in JSON round-trip exactly (shortest repr); NaN and Infinity are written as Python's json writes them.
"""

import json
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from dreamlm.checkpoints.manifest import Digest, digest_file
from dreamlm.checkpoints.tensors import RawTensor, write_tensors
from dreamlm.checkpoints.verification import verify
from dreamlm.core.errors import CheckpointError

MODEL, OPTIMIZER, HEADS = "model.safetensors", "optimizer.safetensors", "heads.safetensors"
STATE, CONFIG, PRESET = "state.json", "config.json", "preset.json"

_ATTEMPTS = 5
_BETWEEN_ATTEMPTS_SECONDS = 0.02

DTYPE_NAMES = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.uint16: "U16",
    torch.int16: "I16",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.uint32: "U32",
    torch.int32: "I32",
    torch.float32: "F32",
    torch.uint64: "U64",
    torch.int64: "I64",
    torch.float64: "F64",
}


@dataclass(frozen=True)
class Snapshot:
    """Everything a resume needs."""

    model: Mapping[str, Tensor]
    """Parameters and buffers by name; aliases of one tensor are written once each."""
    optimizer: Mapping[str, Tensor]
    """Optimizer state, by whatever names the training code chooses."""
    state: Mapping[str, Any]
    """JSON: step, tokens, cursor, counters."""
    config: Mapping[str, Any]
    """JSON: the model's configuration, transformers style."""
    preset: Mapping[str, Any]
    """JSON: the resolved preset."""
    tokenizer_files: Mapping[str, bytes]
    """By file name: tokenizer.json and tokenizer_config.json."""
    heads: Mapping[str, Tensor] = field(default_factory=dict)
    """What is trained beside the model and is no part of it, such as a value head, by name."""

    @property
    def size_bytes(self) -> int:
        """What the tensors take on disk: the `expected_bytes` of a commit, give or take the JSON files."""
        parts = (self.model, self.optimizer, self.heads)
        return sum(tensor.nbytes for tensors in parts for tensor in tensors.values())


def write_snapshot(folder: Path, snapshot: Snapshot) -> dict[str, Digest]:
    """Write the files into an existing folder and return their digests, so that a commit need not read them again.

    Raises: CheckpointError for a tensor that cannot be stored or a value that is not JSON; OSError.
    """
    with ThreadPoolExecutor(max_workers=2) as hashing:
        parts = {MODEL: snapshot.model, OPTIMIZER: snapshot.optimizer}
        if snapshot.heads:
            parts[HEADS] = snapshot.heads
        pending = {
            name: write_tensors(folder / name, _raw(tensors), {"format": "pt"}, hashing)
            for name, tensors in parts.items()
        }
    digests = {name: digest.result() for name, digest in pending.items()}
    for name, value in ((STATE, snapshot.state), (CONFIG, snapshot.config), (PRESET, snapshot.preset)):
        (folder / name).write_text(_json(name, value), encoding="utf-8")
    for name, content in snapshot.tokenizer_files.items():
        (folder / name).write_bytes(content)
    return digests | {name: digest_file(folder / name) for name in (STATE, CONFIG, PRESET, *snapshot.tokenizer_files)}


def read_snapshot(folder: Path) -> Snapshot:
    """The snapshot in a folder, every byte compared with its manifest first; tensors are on the CPU.

    Reading begins again when another process rotates the names meanwhile.
    Raises: CheckpointError when it is missing or damaged.
    """
    for _ in range(_ATTEMPTS):
        before = _identity(folder)
        try:
            snapshot = _read(folder)
        except (CheckpointError, OSError):
            if before is not None and _identity(folder) == before:
                raise
        else:
            if _identity(folder) == before:
                return snapshot
        time.sleep(_BETWEEN_ATTEMPTS_SECONDS)
    return _read(folder)


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        status = folder.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _read(folder: Path) -> Snapshot:
    verify(folder)
    return Snapshot(
        model=load_file(folder / MODEL),
        optimizer=load_file(folder / OPTIMIZER),
        state=_read_json(folder / STATE),
        config=_read_json(folder / CONFIG),
        preset=_read_json(folder / PRESET),
        tokenizer_files={path.name: path.read_bytes() for path in sorted(folder.glob("tokenizer*.json"))},
        heads=load_file(folder / HEADS) if (folder / HEADS).exists() else {},
    )


def _raw(tensors: Mapping[str, Tensor]) -> dict[str, RawTensor]:
    return {name: _raw_tensor(name, tensor) for name, tensor in tensors.items()}


def _raw_tensor(name: str, tensor: Tensor) -> RawTensor:
    if tensor.layout != torch.strided or tensor.dtype not in DTYPE_NAMES:
        raise CheckpointError(f"tensor {name} ({tensor.dtype}, {tensor.layout}) has no place in a safetensors file")
    flat = tensor.detach().to("cpu").contiguous().reshape(-1)
    return RawTensor(DTYPE_NAMES[tensor.dtype], tuple(tensor.shape), flat.view(torch.uint8).numpy().data)


def _json(name: str, value: Mapping[str, Any]) -> str:
    try:
        return json.dumps(value, indent=1) + "\n"
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{name} cannot be written: {error}", hint="it holds plain JSON values only") from error


def _read_json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content
