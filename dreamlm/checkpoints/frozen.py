"""A model that a run needs and never changes, kept in the run's folder: its origin may go, the run goes on."""

import shutil
from dataclasses import replace
from pathlib import Path

from dreamlm.checkpoints.files import DiskFiles, FileSystem
from dreamlm.checkpoints.manifest import Record, read_manifest
from dreamlm.checkpoints.seal import seal
from dreamlm.checkpoints.snapshot import MODEL, Snapshot, read_snapshot, write_snapshot


def freeze(snapshot: Snapshot, record: Record, folder: Path, files: FileSystem | None = None) -> None:
    """Keep a snapshot, without its optimizer, in a folder that is there whole or not at all.

    What an earlier try left there is replaced.  Raises: OSError, when the disk is full for one.
    """
    files = files or DiskFiles()
    partial = folder.with_name(f".{folder.name}.partial")
    for earlier in (partial, folder):
        if earlier.exists():
            shutil.rmtree(earlier)
    partial.mkdir(parents=True)
    digests = write_snapshot(partial, replace(snapshot, optimizer={}))
    seal(files, partial, record, 1, digests)
    files.rename(partial, folder)
    files.sync_folder(folder.parent)


def thawed(folder: Path) -> tuple[Snapshot, str]:
    """The snapshot that `freeze` kept, every byte verified, and the digest of its weights.

    Raises: CheckpointError when it is missing or damaged.
    """
    return read_snapshot(folder), read_manifest(folder).files[MODEL].sha256
