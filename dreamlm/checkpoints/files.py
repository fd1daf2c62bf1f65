"""The file-system operations that change a run folder, one method each, so that a test can stop between any two."""

import os
import shutil
from abc import ABC, abstractmethod
from pathlib import Path
from typing import final

from dreamlm.core.durable import sync_folder
from dreamlm.core.errors import OutOfSpace


class FileSystem(ABC):
    """What the store asks of a file system. Reading is not part of it: it changes nothing."""

    @abstractmethod
    def make_folder(self, path: Path) -> None:
        """Create a folder whose parent exists; it must not exist itself."""

    @abstractmethod
    def write_file(self, path: Path, content: bytes) -> None:
        """Create or replace a file. Neither atomic nor durable."""

    @abstractmethod
    def set_mode(self, path: Path, mode: int) -> None:
        """Give a file its permission bits."""

    @abstractmethod
    def rename(self, old: Path, new: Path) -> None:
        """Rename a file (replacing an existing one) or a folder (which must not exist), atomically."""

    @abstractmethod
    def remove_file(self, path: Path) -> None:
        """Delete one file."""

    @abstractmethod
    def remove_folder(self, path: Path) -> None:
        """Delete one empty folder."""

    @abstractmethod
    def sync_file(self, path: Path) -> None:
        """Return once the file's content is on the device."""

    @abstractmethod
    def sync_folder(self, path: Path) -> None:
        """Return once the names in the folder are on the device."""

    @abstractmethod
    def free_bytes(self, path: Path) -> int:
        """Room for this user on the file system that holds the path."""


@final
class DiskFiles(FileSystem):
    """The real disk."""

    def make_folder(self, path: Path) -> None:
        path.mkdir()

    def write_file(self, path: Path, content: bytes) -> None:
        path.write_bytes(content)

    def set_mode(self, path: Path, mode: int) -> None:
        path.chmod(mode)

    def rename(self, old: Path, new: Path) -> None:
        old.replace(new)

    def remove_file(self, path: Path) -> None:
        path.unlink()

    def remove_folder(self, path: Path) -> None:
        path.rmdir()

    def sync_file(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def sync_folder(self, path: Path) -> None:
        sync_folder(path)

    def free_bytes(self, path: Path) -> int:
        return shutil.disk_usage(path).free


def remove_tree(files: FileSystem, folder: Path, first: str) -> None:
    """Delete a folder and all in it, the file called `first` before any other; each deletion is one operation.

    A path that is no folder is deleted as the file it is.
    """
    if folder.is_symlink() or not folder.is_dir():
        files.remove_file(folder)
        return
    if (folder / first).is_file():
        files.remove_file(folder / first)
    for parent, folders, names in os.walk(folder, topdown=False):
        for name in sorted(names):
            files.remove_file(Path(parent, name))
        for name in sorted(folders):
            path = Path(parent, name)
            files.remove_file(path) if path.is_symlink() else files.remove_folder(path)
    files.remove_folder(folder)


ELSEWHERE = "another folder with --run DIR"
SPARE_BYTES = 1 << 20
"""Room beyond the expected bytes for manifests, folder entries and block rounding."""


def require_free(files: FileSystem, path: Path, expected_bytes: int, elsewhere: str) -> None:
    """Raises: OutOfSpace when the disk of the path, which need not exist yet, has no room for so many bytes."""
    place = next(one for one in (path, *path.absolute().parents) if one.exists())
    needed, free = expected_bytes + SPARE_BYTES, files.free_bytes(place)
    if free < needed:
        raise OutOfSpace(str(path), needed, free, elsewhere)
