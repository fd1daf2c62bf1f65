"""Deleting what fell off while training goes on: freeing the blocks of a large file takes tens of milliseconds."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import final

from dreamlm.checkpoints.files import FileSystem, remove_tree
from dreamlm.checkpoints.manifest import MANIFEST


def delete_snapshots(files: FileSystem, folders: Sequence[Path]) -> None:
    """Delete folders, manifests first: without one, a half-deleted snapshot cannot be taken for a complete one."""
    for folder in folders:
        remove_tree(files, folder, first=MANIFEST)


@final
class Deletion:
    """At most one deletion under way, in a thread of its own. Not finished is not lost: repair finishes it."""

    def __init__(self, files: FileSystem) -> None:
        self._files = files
        self._running: Future[None] | None = None

    def start(self, folders: Sequence[Path]) -> None:
        """Begin deleting; waits for an earlier deletion. Raises: OSError of the earlier one."""
        self.finish()
        if folders:
            pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="delete-snapshots")
            self._running = pool.submit(delete_snapshots, self._files, folders)
            pool.shutdown(wait=False)

    def finish(self) -> None:
        """Wait until nothing is being deleted. Raises: OSError when the deletion failed."""
        if self._running is not None:
            deletion, self._running = self._running, None
            deletion.result()
