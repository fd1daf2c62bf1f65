"""One-file checkpoints of older tools, `simple_lm_trained.pth`: written for them, read with `weights_only=True` only.

export_pth(snapshot_folder, file) -> Path      a torch.save of tensors, strings and numbers, nothing else
import_pth(file) -> Snapshot                   without optimizer state
import_run(file, run) -> Path                  the same as the first snapshot of a run

Content: `model_state_dict` (tensors by dreamlm's names), `config`, `preset`, `state` (JSON values), `tokenizer_files`.
"""

import pickle
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from dreamlm.checkpoints.convert.placing import placed
from dreamlm.checkpoints.manifest import Record
from dreamlm.checkpoints.snapshot import Snapshot, read_snapshot, write_snapshot
from dreamlm.checkpoints.store import Store
from dreamlm.core.errors import CheckpointError, UserMistake
from dreamlm.core.tokenizer import CONFIG_FILE, TOKENIZER_FILE

LEGACY_NAME = "simple_lm_trained.pth"
_PARTS = ("model_state_dict", "config", "preset", "state", "tokenizer_files")


def export_pth(snapshot: Path, target: Path) -> Path:
    """Write a snapshot's model as one file; a folder as target gets `simple_lm_trained.pth`. Returns the file.

    Raises: CheckpointError when the snapshot is damaged; UserMistake when the file is there already; OutOfSpace.
    """
    file = target / LEGACY_NAME if target.is_dir() else target
    if file.exists():
        raise UserMistake("the file to write is there already", where=str(file), hint="name another, or move it away")
    content = read_snapshot(snapshot)
    parts = (
        dict(content.model),
        dict(content.config),
        dict(content.preset),
        dict(content.state),
        {name: text.decode() for name, text in content.tokenizer_files.items()},
    )
    with placed(file, content.size_bytes) as partial:
        torch.save(dict(zip(_PARTS, parts, strict=True)), partial)
    return file


def import_pth(file: Path) -> Snapshot:
    """The snapshot in a file that `export_pth` wrote; runs no code from it.

    Raises: UserMistake when there is none; CheckpointError when it is damaged, holds anything but plain data, or is
    another tool's layout.
    """
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserMistake("this file does not exist", where=str(file)) from error
    except IsADirectoryError as error:
        raise UserMistake("this is a folder, not a file that dreamlm exported", where=str(file)) from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{file.name} holds objects whose loading could run code, or it is damaged; it was not loaded",
            where=str(file),
            hint="in the tool that wrote it, save the state_dict alone: torch.save(model.state_dict(), path)",
        ) from error
    except (RuntimeError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{file.name} is damaged or no torch file: {error}", where=str(file)) from error
    _require(file, _missing_parts(content))
    if content["tokenizer_files"].keys() != {TOKENIZER_FILE, CONFIG_FILE}:
        named = ", ".join(sorted(map(str, content["tokenizer_files"])))
        raise CheckpointError(
            f"{file.name} holds other tokenizer files than dreamlm writes: {named}",
            where=str(file),
            valid=(TOKENIZER_FILE, CONFIG_FILE),
        )
    return Snapshot(
        model=content["model_state_dict"],
        optimizer={},
        state=content["state"],
        config=content["config"],
        preset=content["preset"],
        tokenizer_files={name: text.encode() for name, text in content["tokenizer_files"].items()},
    )


def import_run(file: Path, run: Path) -> Path:
    """Make a run of a file that `export_pth` wrote, to evaluate it, write with it, or start from it; the snapshot.

    Raises: CheckpointError as `import_pth` does; UserMistake when the run has snapshots already; OutOfSpace.
    """
    snapshot = import_pth(file)
    _require(file, [f"a number as state.{name}" for name in ("step", "tokens") if not _is_count(snapshot.state, name)])
    store = Store(run)
    with store.lock():
        if store.latest() is not None:
            raise UserMistake("this run has snapshots already", where=str(run), hint="name a new folder with --run DIR")
        store.require_space(snapshot.size_bytes)
        record = Record(
            step=int(snapshot.state["step"]),
            tokens=int(snapshot.state["tokens"]),
            finite=all(bool(weight.isfinite().all()) for weight in snapshot.model.values()),
        )
        return store.commit(record, lambda folder: write_snapshot(folder, snapshot), expected_bytes=snapshot.size_bytes)


def _is_count(state: Mapping[str, Any], name: str) -> bool:
    return isinstance(state.get(name), int) and state[name] >= 0


def _missing_parts(content: Any) -> list[str]:
    if not isinstance(content, dict):
        return [*_PARTS]
    missing = [part for part in _PARTS if not isinstance(content.get(part), dict)]
    weights = {} if "model_state_dict" in missing else content["model_state_dict"]
    return [*missing, *(f"a tensor as {name}" for name, one in weights.items() if not isinstance(one, torch.Tensor))]


def _require(file: Path, missing: Sequence[str]) -> None:
    if missing:
        raise CheckpointError(
            f"{file.name} lacks {', '.join(missing)}: it is not a file that dreamlm exported",
            where=str(file),
            valid=_PARTS,
            hint="dreamlm ckpt export writes such a file",
        )
