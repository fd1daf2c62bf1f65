"""One writer for each run folder: a file lock that can say who holds it."""

import json
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from dreamlm.checkpoints.manifest import MANIFEST
from dreamlm.core.durable import sync_folder
from dreamlm.core.errors import StoreLocked, UserMistake, is_out_of_space

LOCK, HOLDER = ".lock", ".lock-holder.json"


class RunLock:
    """Held by the process that may write to a run folder; entering it again while it is held is free.

    The operating system releases it when the process dies, however it dies. A folder that got nothing else is gone
    when the lock is: a command that failed before it wrote anything leaves nothing behind.
    """

    def __init__(self, run: Path) -> None:
        self._run = run
        self._lock = FileLock(run / LOCK, thread_local=False)

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Raises: StoreLocked naming the holder's process id; UserMistake for what cannot be a run."""
        self._require_run()
        made = [folder for folder in (self._run, *self._run.parents) if not folder.exists()]
        self._run.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise self._locked() from error
        try:
            for folder in made:
                sync_folder(folder.parent)
            if self._lock.lock_counter == 1:
                holder = {"pid": os.getpid(), "host": socket.gethostname()}
                self._sign(holder)
            yield
        finally:
            if self._lock.lock_counter == 1 and self._is_unused():
                # Deleted while it is held: whoever waits for it sees that its file has no name, and makes a new one.
                (self._run / HOLDER).unlink(missing_ok=True)
                (self._run / LOCK).unlink(missing_ok=True)
            self._lock.release()
            _remove_empty(made)

    def _require_run(self) -> None:
        if (self._run / MANIFEST).exists():
            raise UserMistake(
                "this folder is a snapshot or a corpus, not a run",
                where=str(self._run),
                hint="name the folder that holds checkpoints/ with --run DIR",
            )
        checkpoints = self._run / "checkpoints"
        if checkpoints.is_symlink() and not checkpoints.exists():
            raise UserMistake(
                f"the snapshots of this run are out of reach: {checkpoints.readlink()} is not there",
                where=str(checkpoints),
                hint="attach the disk that holds them, or remove the link",
            )

    def _sign(self, holder: Mapping[str, Any]) -> None:
        try:
            (self._run / HOLDER).write_text(json.dumps(holder) + "\n", encoding="utf-8")
        except OSError as error:
            if not is_out_of_space(error):  # the lock holds without; what it is for may make room
                raise

    def _is_unused(self) -> bool:
        return self._run.is_dir() and {path.name for path in self._run.iterdir()} <= {LOCK, HOLDER}

    def _locked(self) -> StoreLocked:
        try:
            holder = json.loads((self._run / HOLDER).read_text(encoding="utf-8"))
            who = f"process {holder['pid']} on {holder['host']}"
        except (OSError, ValueError, KeyError, TypeError):
            who = "a process that has not yet written its id"
        return StoreLocked(
            f"another dreamlm writes to this run: {who}",
            where=str(self._run),
            hint="wait for it or stop it, or give this command another folder with --run DIR",
        )


def _remove_empty(folders: Sequence[Path]) -> None:
    """Remove folders, innermost first, up to one that holds something."""
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            return
