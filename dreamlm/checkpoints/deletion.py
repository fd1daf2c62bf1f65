"""Deleting what fell off while training goes on: freeing the blocks of a large file takes tens of milliseconds."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeAlias, final

from dreamlm.checkpoints.files import FileSystem, remove_tree
from dreamlm.checkpoints.manifest import MANIFEST

Failures: TypeAlias = Mapping[Path, str]
"""What could not be deleted, and a sentence about it."""


def delete_snapshots(files: FileSystem, folders: Sequence[Path]) -> Failures:
    """Delete folders, manifests first: without one, a half-deleted snapshot cannot be taken for a complete one.

    What the system does not let go (a reader on a network's disk, a protected file) ends no run: it stays.
    """
    failures = {}
    for folder in folders:
        try:
            remove_tree(files, folder, first=MANIFEST)
        except OSError as error:
            why = f"{error.strerror or error}: {error.filename or folder}"
            failures[folder] = (
                f"an old snapshot cannot be deleted ({why}); it takes part in nothing, and is tried again"
            )
    return failures


@final
class Deletion:
    """At most one deletion under way, in a thread of its own. Not finished is not lost: repair finishes it."""

    def __init__(self, files: FileSystem) -> None:
        self._files = files
        self._running: Future[Failures] | None = None

    def start(self, folders: Sequence[Path]) -> None:
        """Begin deleting; waits for an earlier deletion."""
        self.finish()
        if folders:
            pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="delete-snapshots")
            self._running = pool.submit(delete_snapshots, self._files, folders)
            pool.shutdown(wait=False)

    def finish(self) -> Failures:
        """Wait until nothing is being deleted; what of the last deletion could not be."""
        deletion, self._running = self._running, None
        return deletion.result() if deletion is not None else {}
