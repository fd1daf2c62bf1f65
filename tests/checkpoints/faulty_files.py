"""A disk that stops before its k-th operation, and, like one that lost power, can forget what was never synced.

Syncing only notes what was synced; waiting for the real device would take most of a test's time.
"""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from dreamlm.checkpoints.files import DiskFiles, FileSystem


class Crash(Exception):
    """Stands for the end of the process: from it on, every operation fails."""


def raise_crash() -> NoReturn:
    raise Crash


class FaultyFiles(FileSystem):
    """Counts operations; `stop` is called instead of operation `stop_at` (from 0), and for all after it."""

    def __init__(self, stop_at: int | None = None, stop: Callable[[], NoReturn] = raise_crash) -> None:
        self._disk = DiskFiles()
        self._stop_at, self._stop = stop_at, stop
        self._threads = threading.Lock()
        self.operations = 0
        self.synced: set[int] = set()

    def step(self) -> None:
        with self._threads:
            if self._stop_at is not None and self.operations >= self._stop_at:
                self._stop()
            self.operations += 1

    def lose_unsynced(self, folder: Path, before: set[int]) -> None:
        """Cut every file to half that is neither among the inodes `before` nor was synced since."""
        for path in folder.rglob("*"):
            if path.is_file() and path.stat().st_ino not in self.synced | before:
                os.truncate(path, path.stat().st_size // 2)

    def make_folder(self, path: Path) -> None:
        self.step()
        self._disk.make_folder(path)

    def write_file(self, path: Path, content: bytes) -> None:
        self.step()
        self._disk.write_file(path, content)

    def set_mode(self, path: Path, mode: int) -> None:
        self.step()
        self._disk.set_mode(path, mode)

    def rename(self, old: Path, new: Path) -> None:
        self.step()
        self._disk.rename(old, new)

    def remove_file(self, path: Path) -> None:
        self.step()
        self._disk.remove_file(path)

    def remove_folder(self, path: Path) -> None:
        self.step()
        self._disk.remove_folder(path)

    def sync_file(self, path: Path) -> None:
        self.step()
        self.synced.add(path.stat().st_ino)

    def sync_folder(self, path: Path) -> None:
        self.step()

    def free_bytes(self, path: Path) -> int:
        return self._disk.free_bytes(path)


def inodes(folder: Path) -> set[int]:
    return {path.stat().st_ino for path in folder.rglob("*") if path.is_file()}
