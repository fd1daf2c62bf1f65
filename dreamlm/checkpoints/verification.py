"""Whether a snapshot on disk is what its manifest says. Imports no torch."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dreamlm.checkpoints.manifest import MANIFEST, Manifest, digest_file, read_manifest, snapshot_files
from dreamlm.core.errors import CheckpointError


@dataclass(frozen=True)
class Damage:
    """One difference between a snapshot and its manifest."""

    file: str
    """Relative to the snapshot."""
    kind: Literal["manifest", "missing", "size", "content", "extra"]
    message: str
    """One sentence that begins with the file's name."""

    @property
    def harmful(self) -> bool:
        """Whether the snapshot cannot be used; a file too many does not hurt the others."""
        return self.kind != "extra"


@dataclass(frozen=True)
class Verification:
    """The outcome of comparing every byte of a snapshot with its manifest."""

    name: str
    """Name of the snapshot folder."""
    files: int
    """Files the manifest lists."""
    size_bytes: int
    """Their total size."""
    damages: tuple[Damage, ...]

    @property
    def intact(self) -> bool:
        return not self.damages


def examine(folder: Path) -> Verification:
    """Compare every file with its size and sha256; damage is reported, not raised.

    Raises: CheckpointError when the folder does not exist.  Cost: reads every byte once.
    """
    if not folder.is_dir():
        read_manifest(folder)
    try:
        manifest = read_manifest(folder)
    except CheckpointError as error:
        return Verification(folder.name, 0, 0, (Damage(MANIFEST, "manifest", error.what),))
    damages = list(outward_damages(folder, manifest))
    suspect = {damage.file for damage in damages}
    names = [name for name in manifest.files if name not in suspect]
    with ThreadPoolExecutor(max_workers=4) as pool:
        found = pool.map(digest_file, [folder / name for name in names])
        for name, digest in zip(names, found, strict=True):
            if digest != manifest.files[name]:
                damages.append(Damage(name, "content", f"{name} differs from what was saved (sha256)"))
    return Verification(folder.name, len(manifest.files), manifest.size_bytes, tuple(damages))


def outward_damages(folder: Path, manifest: Manifest) -> tuple[Damage, ...]:
    """What names and sizes alone give away. Cost: one look at each file's entry, no content is read."""
    present = snapshot_files(folder)
    damages = []
    for name, digest in manifest.files.items():
        if name not in present:
            damages.append(Damage(name, "missing", f"{name} is missing"))
        elif (size := present[name].stat().st_size) != digest.size_bytes:
            message = f"{name} has {size:,} bytes instead of {digest.size_bytes:,}"
            damages.append(Damage(name, "size", message))
    extra = [name for name in present if name not in manifest.files]
    damages += [Damage(name, "extra", f"{name} is not part of the snapshot") for name in extra]
    return tuple(damages)


def verify(folder: Path) -> Verification:
    """The verification of an intact snapshot.

    Raises: CheckpointError that lists every damage and says what to do.  Cost: reads every byte once.
    """
    verification = examine(folder)
    if not verification.intact:
        raise damaged(folder, verification.damages)
    return verification


def damaged(folder: Path, damages: tuple[Damage, ...]) -> CheckpointError:
    """The error for a snapshot with these damages."""
    lines = "\n".join(f"  {damage.message}" for damage in damages)
    if any(damage.harmful for damage in damages):
        hint = "move this folder away: the next start goes on from the newest snapshot that is left"
    else:
        hint = "move what does not belong there out of the snapshot; the snapshot itself is complete"
    return CheckpointError(f"{folder.name} is not what was saved:\n{lines}", where=str(folder), hint=hint)
