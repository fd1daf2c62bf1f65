"""An export appears under its name when it is complete, or not at all."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dreamlm.checkpoints.files import DiskFiles, require_free


@contextmanager
def placed(target: Path, expected_bytes: int) -> Iterator[Path]:
    """A path beside the target to write a file or folder to; it becomes the target when the block ends well.

    An empty folder in the target's place is replaced.  Raises: OutOfSpace before anything is written.
    """
    target = target.resolve()  # a link stays one, and `.` has a name
    target.parent.mkdir(parents=True, exist_ok=True)
    require_free(DiskFiles(), target, expected_bytes, "another TARGET")
    partial = target.with_name(f".{target.name}.partial")
    _remove(partial)
    try:
        yield partial
        if target.is_dir():
            target.rmdir()
        partial.replace(target)
    finally:
        _remove(partial)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
