"""Giving snapshots their names by renames alone: a stop anywhere loses nothing, and doing it again finishes it."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from dreamlm.checkpoints.files import FileSystem

INCOMING = ".incoming"
"""A snapshot being written; complete once it has an intact manifest."""
MOVING = ".moving"
"""A snapshot on its way from one name to another when the names form a ring."""
UNDECIDED = ".manifest.new"
"""A manifest that would change the order of the snapshots, not yet in its place."""
DROPPED = ".dropped-"
"""Prefix of a snapshot that fell off and is being deleted."""


def rearrange(files: FileSystem, folder: Path, wanted: Mapping[str, Path], dropped: Iterable[Path]) -> list[Path]:
    """Rename each snapshot of `wanted` to its name, and the dropped ones out of the way: their new paths are returned.

    They may be deleted now: on return, the new names are on the device.
    """
    doomed = [_set_aside(files, folder, path) for path in dropped]
    pending = {name: path for name, path in wanted.items() if path.name != name}
    changed = bool(pending)
    while pending:
        free = next((name for name in pending if not (folder / name).exists()), None)
        if free is not None:
            files.rename(pending.pop(free), folder / free)
            continue
        held = folder / next(iter(pending))
        files.rename(held, folder / MOVING)
        pending = {name: folder / MOVING if path == held else path for name, path in pending.items()}
    if changed or doomed:
        files.sync_folder(folder)
    return doomed


def _set_aside(files: FileSystem, folder: Path, path: Path) -> Path:
    if path.name.startswith(DROPPED):
        return path
    return rename_to_free(files, path, folder / f"{DROPPED}{path.name}")


def rename_to_free(files: FileSystem, path: Path, wish: Path) -> Path:
    """Rename to the wished name, or to the first of wish-2, wish-3, ... that is not taken; returns the new path."""
    target, number = wish, 1
    while target.exists():
        number += 1
        target = wish.with_name(f"{wish.name}-{number}")
    files.rename(path, target)
    return target
