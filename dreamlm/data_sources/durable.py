"""Files and names that survive a power cut: the bytes are on the disk before the name that promises them."""

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dreamlm.core.errors import OutOfSpace, is_out_of_space

ELSEWHERE = "another folder with --corpus DIR"


def write_durably(path: Path, content: bytes) -> None:
    """Write a new file and wait until the disk has it."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_file(path: Path) -> None:
    """Wait until the disk has what another library wrote into the file."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def free_bytes(folder: Path) -> int:
    """Room left on the file system that holds the folder."""
    return shutil.disk_usage(folder).free


def require_space(folder: Path, needed_bytes: int) -> None:
    """Raises: OutOfSpace when the file system of the folder has less room than needed."""
    free = free_bytes(folder)
    if free < needed_bytes:
        raise OutOfSpace(str(folder), needed_bytes, free, ELSEWHERE)


@contextmanager
def full_disk_explained(folder: Path, needed_bytes: Callable[[], int]) -> Iterator[None]:
    """Turn the many ways in which a full disk shows itself into OutOfSpace, with an estimate of what is needed."""
    try:
        yield
    except OSError as error:
        if not is_out_of_space(error):
            raise
        raise OutOfSpace(str(folder), needed_bytes(), free_bytes(folder), ELSEWHERE, str(error.strerror)) from error
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_FULL:
            raise
        raise OutOfSpace(str(folder), needed_bytes(), free_bytes(folder), ELSEWHERE) from error
