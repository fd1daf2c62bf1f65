"""Start-up: completes or undoes what an interrupted commit left.

1. Leftovers of a save or of a rotation are read to the last byte: a complete one counts, the others are deleted. So is
   what fell off already, unless nothing else is left.
2. A named snapshot that is visibly damaged is set aside under NAME.damaged; nothing of it is deleted.
3. The complete ones get the names that retention gives them, as in every commit.
"""

from dataclasses import dataclass
from pathlib import Path

from dreamlm.checkpoints.deletion import delete_snapshots
from dreamlm.checkpoints.files import FileSystem
from dreamlm.checkpoints.found import SnapshotInfo, harm, leftovers, named_folders, newest_first
from dreamlm.checkpoints.retention import assign_names
from dreamlm.checkpoints.rotation import DROPPED, INCOMING, UNDECIDED, rearrange, rename_to_free
from dreamlm.core.errors import CheckpointError


@dataclass(frozen=True)
class Repaired:
    """The state of the folder afterwards, and a sentence for each thing that was done."""

    newest_first: tuple[SnapshotInfo, ...]
    sentences: tuple[str, ...]


def repair(files: FileSystem, folder: Path, may_start_anew: bool = False) -> Repaired:
    """Bring a checkpoints folder in order.

    Raises: CheckpointError when snapshots are there and not one is usable, before anything is changed: nothing starts
    from zero unnoticed. With `may_start_anew` they are set aside instead.
    Cost: a manifest and the file sizes of each snapshot; every byte of what an interruption left.
    """
    usable: list[SnapshotInfo] = []
    broken: dict[Path, str] = {}
    incomplete: list[Path] = []
    for path in named_folders(folder):
        info, damages = harm(path, thorough=False)
        if info is not None:
            usable.append(info)
        else:
            broken[path] = "; ".join(damage.message for damage in damages)
    for path in sorted(leftovers(folder), key=_fell_off):
        info = None if usable and _fell_off(path) else harm(path, thorough=True)[0]
        if info is not None:
            usable.append(info)
        else:
            incomplete.append(path)
    if broken and not usable and not may_start_anew:
        raise CheckpointError(
            "no usable snapshot is left:\n" + "\n".join(f"  {path.name}: {why}" for path, why in broken.items()),
            where=str(folder),
            hint="put a good copy back as lm_current, or start a new run in another folder",
        )
    sentences = [_set_aside(files, path, why) for path, why in broken.items()]
    ordered = newest_first(usable)
    named = assign_names(ordered)
    kept = {id(info) for info in named.values()}
    sentences += [_renamed(info, name) for name, info in named.items() if info.name != name]
    dropped = [info.path for info in ordered if id(info) not in kept]
    wanted = {name: info.path for name, info in named.items()}
    doomed = rearrange(files, folder, wanted, [*dropped, *incomplete])
    failures = delete_snapshots(files, doomed)
    of_interruptions = zip(incomplete, doomed[len(dropped) :], strict=True)
    sentences += [_deleted(before) for before, path in of_interruptions if path not in failures]
    sentences += failures.values()
    after = [SnapshotInfo(folder / name, info.manifest) for name, info in named.items()]
    return Repaired(tuple(newest_first(after)), tuple(sentences))


def _fell_off(path: Path) -> bool:
    return path.name.startswith(DROPPED)


def _set_aside(files: FileSystem, path: Path, why: str) -> str:
    aside = rename_to_free(files, path, path.with_name(f"{path.name}.damaged"))
    files.sync_folder(path.parent)
    return f"{path.name} is damaged ({why}) and was moved to {aside.name}; it takes part in nothing"


def _renamed(info: SnapshotInfo, name: str) -> str:
    if info.name == INCOMING:
        return f"an interrupted save was complete: its snapshot of step {info.record.step:,} is now {name}"
    return f"the names were put in order: the snapshot of step {info.record.step:,} ({info.name}) is now {name}"


def _deleted(path: Path) -> str:
    if path.name == INCOMING:
        return "an interrupted save was incomplete and was deleted; the snapshots before it are untouched"
    if path.name == UNDECIDED:
        return "an interrupted rotation had changed nothing yet and was undone"
    return "the deletion of an old snapshot was finished"
