"""The end of a save: everything on the device, then the manifest that says so."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dreamlm.checkpoints.files import FileSystem
from dreamlm.checkpoints.manifest import MANIFEST, Digest, Manifest, Record, digest_file, snapshot_files
from dreamlm.core.errors import CheckpointError


def seal(files: FileSystem, folder: Path, record: Record, sequence: int, known: Mapping[str, Digest]) -> Manifest:
    """Make a written folder a snapshot: ordinary permissions, every file synced, the manifest last.

    `known` spares reading files whose digest was taken while they were written.
    Raises: CheckpointError when `known` contradicts the folder.
    Cost: the slower of fsync and sha256 of what is not known; they run side by side.
    """
    paths = snapshot_files(folder)
    _require_consistent(folder, paths, known)
    mode = folder.stat().st_mode & 0o666  # a new folder shows the umask; safetensors writes files as 0600
    for path in paths.values():
        if path.stat().st_mode & 0o777 != mode:
            files.set_mode(path, mode)
    with ThreadPoolExecutor(max_workers=4) as pool:
        digests = {name: pool.submit(digest_file, path) for name, path in paths.items() if name not in known}
        syncs = [pool.submit(files.sync_file, path) for path in paths.values()]
        for sync in syncs:
            sync.result()
        taken = {name: digest.result() for name, digest in digests.items()}
    manifest = Manifest(sequence, record, {name: taken.get(name) or known[name] for name in paths})
    files.write_file(folder / MANIFEST, manifest.render())
    files.sync_file(folder / MANIFEST)
    for inner in sorted({path.parent for path in paths.values()} | {folder}, reverse=True):
        files.sync_folder(inner)
    return manifest


def replace_durably(files: FileSystem, path: Path, content: bytes, temporary: Path) -> None:
    """Replace a file so that a stop at any moment leaves the old content or the new, and perhaps the temporary file."""
    files.write_file(temporary, content)
    files.sync_file(temporary)
    files.rename(temporary, path)
    files.sync_folder(path.parent)


def _require_consistent(folder: Path, paths: Mapping[str, Path], known: Mapping[str, Digest]) -> None:
    for name, digest in known.items():
        size = paths[name].stat().st_size if name in paths else None
        if size != digest.size_bytes:
            state = "was not written" if size is None else f"has {size:,} bytes"
            raise CheckpointError(f"{name} {state}, but {digest.size_bytes:,} bytes were reported", where=str(folder))
