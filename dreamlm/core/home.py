"""Paths that begin with a user's home folder."""

import os
from pathlib import Path


def expanded(path: str) -> Path:
    """The path with `~` or `~user` replaced by that folder; a name that only looks so stays, as `~$a.txt`."""
    return Path(os.path.expanduser(path))  # noqa: PTH111  pathlib's own raises RuntimeError for the latter
