"""What lies in a checkpoints folder: complete snapshots, and what is left of interrupted work."""

from dataclasses import dataclass
from pathlib import Path

from dreamlm.checkpoints.manifest import Manifest, Record, read_manifest
from dreamlm.checkpoints.retention import NAMES
from dreamlm.checkpoints.rotation import DROPPED, INCOMING, MOVING, UNDECIDED
from dreamlm.checkpoints.verification import Damage, damaged, examine, outward_damages
from dreamlm.core.errors import CheckpointError


@dataclass(frozen=True)
class SnapshotInfo:
    """One snapshot of a run."""

    path: Path
    manifest: Manifest

    @property
    def name(self) -> str:
        """Its present name, such as lm_prev."""
        return self.path.name

    @property
    def record(self) -> Record:
        return self.manifest.record

    @property
    def sequence(self) -> int:
        """Order of commits: the newest snapshot has the largest."""
        return self.manifest.sequence

    @property
    def size_bytes(self) -> int:
        """Size of its files."""
        return self.manifest.size_bytes


def read_info(folder: Path) -> SnapshotInfo:
    """The snapshot in a folder, looked at from outside: manifest, file names, sizes.

    Raises: CheckpointError when it is not there or visibly damaged.
    """
    manifest = read_manifest(folder)
    damages = tuple(damage for damage in outward_damages(folder, manifest) if damage.harmful)
    if damages:
        raise damaged(folder, damages)
    return SnapshotInfo(folder, manifest)


def newest_first(snapshots: list[SnapshotInfo]) -> list[SnapshotInfo]:
    """Sorted by commit, latest first; copies of one snapshot keep the order of their names."""
    rank = {name: -position for position, name in enumerate(NAMES)}
    return sorted(snapshots, key=lambda one: (one.sequence, rank.get(one.name, -len(rank))), reverse=True)


def named_folders(folder: Path) -> list[Path]:
    """The folders that bear a snapshot's name, in the order of names."""
    return [folder / name for name in NAMES if (folder / name).exists()]


def leftovers(folder: Path) -> list[Path]:
    """What only an interrupted rotation or save leaves behind."""
    if not folder.is_dir():
        return []
    transient = (INCOMING, MOVING, UNDECIDED)
    return sorted(path for path in folder.iterdir() if path.name in transient or path.name.startswith(DROPPED))


def harm(folder: Path, thorough: bool) -> tuple[SnapshotInfo | None, tuple[Damage, ...]]:
    """The snapshot when it is usable, else what is wrong with it. `thorough` reads every byte."""
    damages: tuple[Damage, ...]
    try:
        info = SnapshotInfo(folder, read_manifest(folder))
    except CheckpointError as error:
        return None, (Damage("manifest.json", "manifest", error.what),)
    damages = examine(folder).damages if thorough else outward_damages(folder, info.manifest)
    harmful = tuple(damage for damage in damages if damage.harmful)
    return (None if harmful else info), harmful
