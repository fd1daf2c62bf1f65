"""What a snapshot says about itself: `manifest.json`, written last, with the size and sha256 of every other file.

Nothing here imports torch. A snapshot is intact when its manifest is, and every file is there with its size and digest.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from dreamlm import __version__
from dreamlm.core.errors import CheckpointError

MANIFEST = "manifest.json"
FORMAT = 1

Kind = Literal["train", "reward", "policy"]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class Record:
    """Where training stood when the snapshot was taken."""

    step: int
    tokens: int
    """Real tokens trained on so far."""
    finite: bool
    """Whether loss, gradients and weights were finite; only a finite snapshot can be the best one."""
    validation_loss: float | None = None
    """Nats per token on held-out documents, or of a policy the held-out reward, negated: lower is better.

    None when it was not measured. NaN and infinity never win.
    """
    is_bound: bool = False
    """The validation loss is an upper bound: a diffusion model has no other."""
    kind: Kind = "train"
    created: str = field(default_factory=_now)
    """UTC, ISO 8601."""
    dreamlm: str = __version__
    """Version that wrote the snapshot."""


@dataclass(frozen=True)
class Digest:
    """Size and content of one file."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """Everything in `manifest.json`."""

    sequence: int
    """Order of commits in a run: the newest snapshot has the largest. Steps do not order: a run can be rolled back."""
    record: Record
    files: Mapping[str, Digest]
    """By path relative to the snapshot, with forward slashes."""

    @property
    def size_bytes(self) -> int:
        return sum(digest.size_bytes for digest in self.files.values())

    def render(self) -> bytes:
        """The manifest as a readable JSON file that carries a digest of itself."""
        body = self._body()
        return (json.dumps({**body, "sha256": _self_digest(body)}, indent=1) + "\n").encode()

    def _body(self) -> dict[str, Any]:
        record = asdict(self.record)
        loss = self.record.validation_loss
        # JSON has no NaN; a string keeps the file readable everywhere and float() reads it back.
        record["validation_loss"] = str(loss) if loss is not None and not _is_json_number(loss) else loss
        files = {name: asdict(self.files[name]) for name in sorted(self.files)}
        return {"format": FORMAT, "sequence": self.sequence, "record": record, "files": files}


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a snapshot folder.

    Raises: CheckpointError when there is none, or when it is not what dreamlm wrote.
    """
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_bytes())
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        what = (
            "has no manifest.json: it is not a snapshot, or an incomplete one" if folder.exists() else "does not exist"
        )
        hint = "dreamlm ckpt list shows the snapshots of a run"
        raise CheckpointError(f"{folder.name} {what}", where=str(folder), hint=hint) from error
    except (ValueError, RecursionError) as error:  # invalid JSON and invalid UTF-8
        raise _damaged_manifest(path, f"is not valid JSON: {error}") from error
    try:
        stated = content.pop("sha256")
        if content["format"] != FORMAT:
            raise CheckpointError(
                f"the snapshot has format {content['format']}, this dreamlm ({__version__}) reads format {FORMAT}",
                where=str(path),
                hint="use the version of dreamlm that wrote it, or a newer one",
            )
        manifest = _parse(content)
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise _damaged_manifest(path, f"lacks or garbles an entry: {error!r}") from error
    if stated != _self_digest(content):
        raise _damaged_manifest(path, "does not match its own sha256: it was changed after it was written")
    return manifest


def digest_file(path: Path) -> Digest:
    """Size and sha256 of a file. Cost: reads it once."""
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return Digest(file.tell(), sha256)


def snapshot_files(folder: Path) -> dict[str, Path]:
    """Every file of a snapshot folder but its manifest, by relative name, sorted."""
    paths = sorted(path for path in folder.rglob("*") if not path.is_dir() or path.is_symlink())
    names = {path.relative_to(folder).as_posix(): path for path in paths}
    names.pop(MANIFEST, None)
    return names


def _parse(content: dict[str, Any]) -> Manifest:
    record = dict(content["record"])
    if isinstance(record["validation_loss"], str):
        record["validation_loss"] = float(record["validation_loss"])
    files = {name: Digest(int(entry["size_bytes"]), str(entry["sha256"])) for name, entry in content["files"].items()}
    return Manifest(int(content["sequence"]), Record(**record), files)


def _is_json_number(value: float) -> bool:
    return value - value == 0.0


def _self_digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _damaged_manifest(path: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"{path.parent.name}/{MANIFEST} {what}", where=str(path), hint="the snapshot cannot be trusted: use another one"
    )
