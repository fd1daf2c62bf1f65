"""Looking at snapshots without torch: what `dreamlm ckpt list|show|verify|diff` print.

listing(run)      -> tuple[Listed, ...]   one per folder in RUN/checkpoints, snapshots newest first
describe(folder)  -> Description          record, sizes, tensors, configuration
verify(folder)    -> Verification         raises CheckpointError on damage; `examine` returns the damages instead
diff(a, b)        -> Difference           keys and tensors that differ (module `difference`)

All are frozen dataclasses of plain values: `dataclasses.asdict` gives a JSON document without NaN from the records.
"""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dreamlm.checkpoints.difference import Difference, KeyDifference, TensorDifference, diff
from dreamlm.checkpoints.found import SnapshotInfo, harm, leftovers, newest_first
from dreamlm.checkpoints.manifest import Record, read_manifest
from dreamlm.checkpoints.retention import best_of, last_finite_of
from dreamlm.checkpoints.tensors import read_header
from dreamlm.checkpoints.verification import Damage, Verification, examine, verify
from dreamlm.core.errors import CheckpointError, UserMistake


@dataclass(frozen=True)
class Listed:
    """One line of a listing."""

    name: str
    roles: tuple[str, ...]
    """Of `latest`, `best`, `last finite`."""
    problem: str
    """Why the folder is no usable snapshot; empty when it is one. Sizes and manifest are looked at, not contents."""
    step: int | None = None
    tokens: int | None = None
    validation_loss: float | None = None
    """Nats per token; None when it was not measured, or not finite."""
    is_bound: bool | None = None
    """Whether that loss is an upper bound."""
    reward: float | None = None
    """Held-out reward of a policy."""
    finite: bool | None = None
    kind: str | None = None
    created: str | None = None
    size_bytes: int | None = None


@dataclass(frozen=True)
class TensorSummary:
    """One tensor of a snapshot."""

    file: str
    name: str
    dtype: str
    """As safetensors names it: F32, BF16, ..."""
    shape: tuple[int, ...]
    elements: int


@dataclass(frozen=True)
class Description:
    """All that a snapshot says about itself."""

    name: str
    record: dict[str, Any]
    sequence: int
    size_bytes: int
    files: dict[str, int]
    """Size in bytes, by name."""
    parameters: int
    """Elements in model.safetensors."""
    tensors: tuple[TensorSummary, ...]
    documents: dict[str, Any]
    """The parsed JSON files except the tokenizer's: state.json, config.json, preset.json."""


def listing(run: Path) -> tuple[Listed, ...]:
    """Snapshots of a run, newest first, then the folders beside them that are none and why.

    Raises: UserMistake when the run has no checkpoints folder.
    """
    folder = run / "checkpoints"
    if not folder.is_dir():
        raise UserMistake("this run has no snapshots", where=str(run), hint="name a run folder with --run DIR")
    usable: list[SnapshotInfo] = []
    unusable: list[Listed] = []
    for path in sorted(path for path in folder.iterdir() if path.name.startswith("lm_")):
        info, damages = harm(path, thorough=False)
        if info is not None and not path.suffix:
            usable.append(info)
        else:
            problem = "; ".join(damage.message for damage in damages) or "set aside by a repair"
            unusable.append(Listed(path.name, (), problem))
    for path in leftovers(folder):
        problem = "a save or rotation in progress, or an interrupted one: the next start puts it in order"
        unusable.append(Listed(path.name, (), problem))
    ordered = newest_first(usable)
    roles = {"latest": next(iter(ordered), None), "best": best_of(ordered), "last finite": last_finite_of(ordered)}
    listed = [_listed(info, tuple(role for role, holder in roles.items() if holder is info)) for info in ordered]
    return (*listed, *unusable)


def describe(folder: Path) -> Description:
    """What the snapshot in a folder holds; reads headers and JSON, no tensor.

    Raises: CheckpointError when it is not there or cannot be read.
    """
    manifest = read_manifest(folder)
    tensors = [
        TensorSummary(file, name, entry.dtype, entry.shape, entry.elements)
        for file in manifest.files
        if file.endswith(".safetensors")
        for name, entry in read_header(folder / file).entries.items()
    ]
    documents = {
        file: _document(folder / file)
        for file in manifest.files
        if file.endswith(".json") and not file.startswith("tokenizer")
    }
    return Description(
        name=folder.name,
        record=plain_record(manifest.record),
        sequence=manifest.sequence,
        size_bytes=manifest.size_bytes,
        files={name: digest.size_bytes for name, digest in manifest.files.items()},
        parameters=sum(tensor.elements for tensor in tensors if tensor.file == "model.safetensors"),
        tensors=tuple(tensors),
        documents=documents,
    )


def _document(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path.name} cannot be read: {error}",
            where=str(path.parent),
            hint=f"dreamlm ckpt verify {path.parent} says what is damaged",
        ) from error


def plain_record(record: Record) -> dict[str, Any]:
    """The record as JSON values; a validation loss that is not finite is None. A policy has a reward instead."""
    loss = record.validation_loss
    if loss is not None and not math.isfinite(loss):
        loss = None
    if record.kind != "policy":
        return asdict(record) | {"validation_loss": loss}
    return asdict(record) | {"validation_loss": None, "reward": None if loss is None else -loss}


def _listed(info: SnapshotInfo, roles: tuple[str, ...]) -> Listed:
    record = plain_record(info.record)
    del record["dreamlm"]
    return Listed(name=info.name, roles=roles, problem="", size_bytes=info.size_bytes, **record)


__all__ = [
    "Damage",
    "Description",
    "Difference",
    "KeyDifference",
    "Listed",
    "TensorDifference",
    "TensorSummary",
    "Verification",
    "describe",
    "diff",
    "examine",
    "listing",
    "plain_record",
    "verify",
]
