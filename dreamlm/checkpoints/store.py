"""The snapshots of one run: `RUN/checkpoints`, its only writer.

A commit:
1. checks the free space, and brings the folder in order if something is left of an interruption;
2. makes a temporary sibling and lets the caller write into it;
3. seals it: permission bits, fsync and sha256 of every file, `manifest.json` last, fsync of the folder;
4. renames: lm_prev2 aside, lm_prev to lm_prev2, lm_current to lm_prev, the new one to lm_current; fsync of the parent;
5. deletes what fell off, in the background while the lock is held on, unless it is the best or the last finite
   snapshot: that one is kept, by rename.
A stop between any two operations leaves the old or the new state, after `repair()`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import final

from dreamlm.checkpoints.deletion import Deletion
from dreamlm.checkpoints.files import ELSEWHERE, SPARE_BYTES, DiskFiles, FileSystem, remove_tree, require_free
from dreamlm.checkpoints.found import SnapshotInfo, harm, leftovers, named_folders, newest_first, read_info
from dreamlm.checkpoints.lock import RunLock
from dreamlm.checkpoints.manifest import MANIFEST, Digest, Record
from dreamlm.checkpoints.repair import Repaired, repair
from dreamlm.checkpoints.retention import ROLLING, assign_names, best_of, last_finite_of
from dreamlm.checkpoints.rotation import INCOMING, UNDECIDED, rearrange
from dreamlm.checkpoints.seal import replace_durably, seal
from dreamlm.core.errors import OutOfSpace, UserMistake, is_out_of_space

Writer = Callable[[Path], Mapping[str, Digest] | None]
"""Writes a snapshot's files into the folder; may return digests it computed on the way, by file name."""


@final
class Store:
    """Commits, finds and drops the snapshots of a run. Methods that change anything hold the run's lock meanwhile."""

    def __init__(
        self, run: Path, files: FileSystem | None = None, on_notice: Callable[[str], None] = lambda sentence: None
    ) -> None:
        self.folder = run / "checkpoints"
        """Where the snapshots are; created by the first commit."""
        self._run = run
        self._files = files or DiskFiles()
        self._lock = RunLock(run)
        self._holds = 0
        self._deletion = Deletion(self._files)
        self._on_notice = on_notice

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep every other process from writing to the run. Entering it again is free; leaving it ends all deletions.

        Raises: StoreLocked naming the holder's process id.
        """
        with self._lock.hold():
            self._holds += 1
            try:
                yield
            finally:
                self._holds -= 1
                if self._holds == 0:
                    self._tell(self._deletion.finish().values())

    def repair(self) -> tuple[str, ...]:
        """Complete or undo an interrupted commit; a sentence for each thing that was done, none when all was well.

        Raises: CheckpointError when snapshots are there and not one is usable; StoreLocked.
        """
        if not self.folder.is_dir():
            return ()
        with self.lock():
            return self._repair().sentences

    def commit(self, record: Record, write: Writer, *, expected_bytes: int) -> Path:
        """Make what `write(folder)` writes the newest snapshot and return its folder, lm_current.

        Raises: OutOfSpace before or while writing (the snapshots on disk stay as they were); StoreLocked; whatever
        `write` raises.  Cost: the writing, and sha256 of what `write` gave no digest for beside the fsync.
        """
        with self.lock():
            self._make_folder()
            repaired = self._repair(may_start_anew=True)
            self._tell(repaired.sentences)
            self.require_space(expected_bytes)
            sequence = max((info.sequence for info in repaired.newest_first), default=0) + 1
            incoming = self.folder / INCOMING
            try:
                self._files.make_folder(incoming)
                manifest = seal(self._files, incoming, record, sequence, write(incoming) or {})
            except OSError as error:
                self._discard(incoming)
                if is_out_of_space(error):
                    free = self._files.free_bytes(self.folder)
                    needed = expected_bytes + SPARE_BYTES
                    raise OutOfSpace(str(self.folder), needed, free, ELSEWHERE, str(error.strerror)) from error
                raise
            except BaseException:
                self._discard(incoming)
                raise
            # Sealed: whatever goes wrong from here on, repair completes the rotation.
            self._name([SnapshotInfo(incoming, manifest), *repaired.newest_first])
        return self.folder / ROLLING[0]

    def require_space(self, expected_bytes: int) -> None:
        """Raises: OutOfSpace when the disk has no room for a snapshot of this size beside the ones it holds."""
        require_free(self._files, self.folder, expected_bytes, ELSEWHERE)

    def snapshots(self) -> tuple[SnapshotInfo, ...]:
        """All snapshots that bear a name, newest first.

        Raises: CheckpointError when one is visibly damaged.
        """
        return tuple(newest_first([read_info(path) for path in named_folders(self.folder)]))

    def latest(self) -> SnapshotInfo | None:
        """The newest snapshot, or None before the first commit. Raises: CheckpointError when it is visibly damaged."""
        newest = self.folder / ROLLING[0]
        return read_info(newest) if newest.exists() else next(iter(self.snapshots()), None)

    def best(self) -> SnapshotInfo | None:
        """The finite snapshot with the lowest validation loss, or None when none was measured."""
        return best_of(self.snapshots())

    def last_finite(self) -> SnapshotInfo | None:
        """The newest finite snapshot, or None."""
        return last_finite_of(self.snapshots())

    def rotate(self, name: str = ROLLING[1]) -> tuple[SnapshotInfo, ...]:
        """Go back: make the named snapshot lm_current; those that were newer move down one. Returns all, newest first.

        `rotate("lm_prev")` twice, or `rotate("lm_prev2")` three times, restores the order.
        Raises: UserMistake when there is no snapshot of that name; CheckpointError when it is damaged; StoreLocked.
        """
        self._require_folder()
        with self.lock():
            asked = self._named(name)
            if leftovers(self.folder):  # which may be newer snapshots, that would push it out
                asked = self._made_newest(asked)
            repaired = self._repair()
            self._tell(repaired.sentences)
            ordered = list(repaired.newest_first)
            chosen = next(info for info in ordered if info.sequence == asked.sequence)
            if chosen is not ordered[0]:
                ordered.remove(chosen)
                self._name([self._made_newest(chosen), *ordered])
            return self.snapshots()

    def prune(
        self, keep_rolling: int = len(ROLLING), keep_best: bool = True, keep_finite: bool = True
    ) -> tuple[SnapshotInfo, ...]:
        """Delete all but the newest `keep_rolling` (1 to 3), the best and the last finite; returns the deleted.

        Raises: UserMistake when keep_rolling is out of range; CheckpointError; StoreLocked.
        """
        if not 1 <= keep_rolling <= len(ROLLING):
            raise UserMistake(f"cannot keep {keep_rolling} rolling snapshots", valid=["1", "2", "3"])
        self._require_folder()
        with self.lock():
            repaired = self._repair()
            self._tell(repaired.sentences)
            return self._name(list(repaired.newest_first), keep_rolling, keep_best, keep_finite)

    def _made_newest(self, info: SnapshotInfo) -> SnapshotInfo:
        """Replacing this one small file decides the order; from there on, repair can finish the rotation."""
        others = [harm(path, thorough=False)[0] for path in (*named_folders(self.folder), *leftovers(self.folder))]
        newest = max(other.sequence for other in others if other is not None)
        manifest = replace(info.manifest, sequence=newest + 1)
        replace_durably(self._files, info.path / MANIFEST, manifest.render(), self.folder / UNDECIDED)
        return replace(info, manifest=manifest)

    def _named(self, name: str) -> SnapshotInfo:
        present = [path.name for path in named_folders(self.folder)]
        if name not in present:
            raise UserMistake(f"there is no snapshot {name}", where=str(self.folder), valid=present)
        return read_info(self.folder / name)

    def _name(
        self, ordered: list[SnapshotInfo], rolling: int = len(ROLLING), best: bool = True, finite: bool = True
    ) -> tuple[SnapshotInfo, ...]:
        named = assign_names(ordered, rolling, best, finite)
        kept = {id(info) for info in named.values()}
        dropped = tuple(info for info in ordered if id(info) not in kept)
        wanted = {name: info.path for name, info in named.items()}
        self._deletion.start(rearrange(self._files, self.folder, wanted, [info.path for info in dropped]))
        return dropped

    def _tell(self, sentences: Iterable[str]) -> None:
        for sentence in sentences:
            self._on_notice(sentence)

    def _repair(self, may_start_anew: bool = False) -> Repaired:
        self._deletion.finish()  # what it could not delete, the repair tries again, and tells
        return repair(self._files, self.folder, may_start_anew)

    def _make_folder(self) -> None:
        if not self.folder.is_dir():
            self._files.make_folder(self.folder)
            self._files.sync_folder(self._run)

    def _require_folder(self) -> None:
        if not self.folder.is_dir():
            raise UserMistake(
                "this run has no snapshots", where=str(self._run), hint="name a run folder with --run DIR"
            )

    def _discard(self, incoming: Path) -> None:
        if incoming.exists():
            remove_tree(self._files, incoming, first=MANIFEST)
