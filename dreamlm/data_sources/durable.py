"""Files and names that survive a power cut: the bytes are on the disk before the name that promises them."""

import errno
import os
import shutil
from pathlib import Path

from dreamlm.core.errors import OutOfSpace


def write_durably(path: Path, content: bytes) -> None:
    """Write a new file and wait until the disk has it. Raises: OutOfSpace."""
    try:
        with path.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OutOfSpace(str(path.parent), len(content), free_bytes(path.parent)) from error
        raise


def sync_folder(folder: Path) -> None:
    """Wait until the disk has the names of a folder's files."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def free_bytes(folder: Path) -> int:
    """Room left on the file system that holds the folder."""
    return shutil.disk_usage(folder).free


def require_space(folder: Path, needed_bytes: int) -> None:
    """Raises: OutOfSpace when the file system of the folder has less room than needed."""
    free = free_bytes(folder)
    if free < needed_bytes:
        raise OutOfSpace(str(folder), needed_bytes, free)
