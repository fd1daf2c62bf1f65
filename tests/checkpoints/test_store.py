"""What a commit does besides rotating: space, locks, permissions, damage, and failures it survives."""

import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from faulty_files import FaultyFiles
from small_snapshots import ROOM, commit, steps, writer

from dreamlm.checkpoints import lock
from dreamlm.checkpoints.files import SPARE_BYTES
from dreamlm.checkpoints.lock import HOLDER, LOCK
from dreamlm.checkpoints.manifest import Digest, Record
from dreamlm.checkpoints.store import Store
from dreamlm.checkpoints.verification import verify
from dreamlm.core.errors import CheckpointError, OutOfSpace, StoreLocked, UserMistake


class SmallDisk(FaultyFiles):
    """A disk with so many bytes free."""

    def __init__(self, free: int) -> None:
        super().__init__()
        self.free = free

    def free_bytes(self, path: Path) -> int:
        return self.free


class FillsUp(FaultyFiles):
    """A disk that has room when it is asked first, and so many bytes then."""

    def __init__(self, left: int) -> None:
        super().__init__()
        self.frees = iter([10**10, left])

    def free_bytes(self, path: Path) -> int:
        return next(self.frees)


class FailingOnce(FaultyFiles):
    """Fails one operation as a disk does, then works again."""

    def step(self) -> None:
        self.operations += 1
        if self.operations == self.fail_at + 1:
            raise OSError(errno.EIO, "input/output error")

    def __init__(self, fail_at: int) -> None:
        super().__init__()
        self.fail_at = fail_at


def state(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_disk_without_room_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    commit(Store(tmp_path), 0)
    before = state(tmp_path)
    store = Store(tmp_path, SmallDisk(free=ROOM + SPARE_BYTES - 1))
    with pytest.raises(OutOfSpace) as caught:
        commit(store, 1)
    assert (caught.value.needed_bytes, caught.value.free_bytes) == (ROOM + SPARE_BYTES, ROOM + SPARE_BYTES - 1)
    assert state(tmp_path) == before


def test_a_disk_with_just_enough_room_is_written_to(tmp_path: Path) -> None:
    commit(Store(tmp_path, SmallDisk(free=ROOM + SPARE_BYTES)), 0)
    assert steps(Store(tmp_path)) == {"lm_current": 0}


@pytest.mark.parametrize(
    ("number", "free", "told", "hint"),
    [
        (errno.ENOSPC, 1_000_000, f"{(ROOM + SPARE_BYTES) / 1e6:.1f} MB needed, 1.0 MB free", "free some space, or"),
        (errno.ENOSPC, 10**10, f"{os.strerror(errno.ENOSPC)}, though bytes are free", "the number of files"),
        (errno.EDQUOT, 10**10, f"{os.strerror(errno.EDQUOT)}, though bytes are free", "a quota"),
    ],
)
def test_a_disk_that_fills_up_while_writing_leaves_the_old_snapshots_untouched(
    tmp_path: Path, number: int, free: int, told: str, hint: str
) -> None:
    store = Store(tmp_path)
    commit(store, 0)
    before = state(store.folder)

    def write(folder: Path) -> None:
        writer(1)(folder)
        raise OSError(number, os.strerror(number))

    store = Store(tmp_path, FillsUp(free))
    with pytest.raises(OutOfSpace, match=re.escape(f"not enough disk space: {told}")) as caught:
        store.commit(Record(1, 10, True), write, expected_bytes=ROOM)
    assert hint in caught.value.hint
    assert state(store.folder) == before
    assert [path.name for path in store.folder.iterdir()] == ["lm_current"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_whatever_stops_the_writing_the_temporary_folder_goes(tmp_path: Path, error: type[BaseException]) -> None:
    store = Store(tmp_path)

    def write(folder: Path) -> None:
        (folder / "part").mkdir()
        (folder / "part" / "half.bin").write_bytes(b"x")
        raise error

    with pytest.raises(error):
        store.commit(Record(0, 0, True), write, expected_bytes=ROOM)
    assert list(store.folder.iterdir()) == []


def test_after_one_failing_operation_anywhere_the_same_store_goes_on(tmp_path: Path) -> None:
    whole = FaultyFiles()
    for step in range(4):
        commit(Store(tmp_path / "whole", whole if step == 3 else None), step, loss=float(step))
    for cut in range(whole.operations):
        run = tmp_path / str(cut)
        for step in range(3):
            commit(Store(run), step, loss=float(step))
        told: list[str] = []
        store = Store(run, FailingOnce(cut), told.append)
        try:
            commit(store, 3, loss=3.0)
        except OSError as error:
            told.append(str(error))
        commit(store, 4, loss=4.0)
        assert any("input/output error" in sentence for sentence in told)
        left = steps(store)
        assert left.pop("lm_best") == 0
        assert list(left.values()) in ([4, 2, 1], [4, 3, 2])


class Immutable(FaultyFiles):
    """Deletes nothing."""

    def remove_file(self, path: Path) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted", str(path))


def test_an_old_snapshot_that_cannot_be_deleted_stops_nothing(tmp_path: Path) -> None:
    told: list[str] = []
    store = Store(tmp_path, Immutable(), told.append)
    for step in range(5):
        commit(store, step)
    assert steps(store) == {"lm_current": 4, "lm_prev": 3, "lm_prev2": 2}
    assert told
    assert all(one.startswith("an old snapshot cannot be deleted (Operation not permitted: ") for one in told)
    Store(tmp_path).repair()
    assert {path.name for path in store.folder.iterdir()} == {"lm_current", "lm_prev", "lm_prev2"}


def test_every_file_gets_the_permissions_of_the_umask(tmp_path: Path) -> None:
    def write(folder: Path) -> None:
        os.close(os.open(folder / "private.bin", os.O_CREAT | os.O_WRONLY, 0o600))

    old = os.umask(0o027)
    try:
        folder = Store(tmp_path).commit(Record(0, 0, True), write, expected_bytes=ROOM)
    finally:
        os.umask(old)
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o640}


def test_digests_of_the_writer_must_fit_what_it_wrote(tmp_path: Path) -> None:
    def write(folder: Path) -> dict[str, Digest]:
        (folder / "model.bin").write_bytes(b"1234")
        return {"model.bin": Digest(5, "0" * 64)}

    with pytest.raises(CheckpointError, match=r"model.bin has 4 bytes, but 5 bytes were reported"):
        Store(tmp_path).commit(Record(0, 0, True), write, expected_bytes=ROOM)


def test_another_process_is_refused_and_told_who_holds_the_run(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from dreamlm.checkpoints.store import Store; from dreamlm.core.errors "
        "import StoreLocked\ntry:\n    Store(Path(sys.argv[1])).lock().__enter__()\nexcept StoreLocked as error:\n"
        "    print(error)"
    )
    with Store(tmp_path).lock():
        command = [sys.executable, "-c", code, tmp_path]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert said.startswith(f"another dreamlm writes to this run: process {os.getpid()} on ")
    assert f"at: {tmp_path}\n" in said


def test_a_lock_on_nothing_leaves_nothing_and_a_used_folder_stays(tmp_path: Path) -> None:
    with Store(tmp_path / "a" / "b").lock():
        assert (tmp_path / "a" / "b").is_dir()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mine").mkdir()
    with Store(tmp_path / "mine").lock():
        pass
    assert list((tmp_path / "mine").iterdir()) == []
    with Store(tmp_path / "mine").lock():
        (tmp_path / "mine" / "notes").touch()
    assert {path.name for path in (tmp_path / "mine").iterdir()} == {"notes", LOCK, HOLDER}


def test_the_names_of_folders_made_for_a_run_are_on_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(lock, "sync_folder", synced.append)
    for _ in range(2):
        with Store(tmp_path / "a" / "b").lock():
            (tmp_path / "a" / "b" / "notes").touch()
    assert synced == [tmp_path / "a", tmp_path]


@pytest.mark.parametrize("command", [Store.repair, lambda store: commit(store, 2)])
def test_a_snapshot_is_no_run(tmp_path: Path, command: Callable[[Store], object]) -> None:
    snapshot = commit(Store(tmp_path), 1)
    (snapshot / "checkpoints").mkdir()
    before = state(tmp_path)
    with pytest.raises(UserMistake, match="this folder is a snapshot or a corpus, not a run"):
        command(Store(snapshot))
    assert state(tmp_path) == before


def test_snapshots_out_of_reach_are_not_started_over(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").symlink_to(tmp_path / "unmounted")
    with pytest.raises(UserMistake, match=r"out of reach: .*unmounted is not there"), Store(tmp_path / "run").lock():
        pass
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["checkpoints"]


def test_a_full_disk_keeps_nobody_from_taking_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: object, **options: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    commit(Store(tmp_path), 1)
    monkeypatch.setattr(Path, "write_text", full)
    with Store(tmp_path).lock(), pytest.raises(StoreLocked):
        commit(Store(tmp_path), 2)


def test_a_second_store_cannot_commit_while_the_first_holds_the_lock(tmp_path: Path) -> None:
    first, second = Store(tmp_path), Store(tmp_path)
    with first.lock():
        commit(first, 0)
        with pytest.raises(StoreLocked):
            commit(second, 1)
    commit(second, 1)
    assert steps(first) == {"lm_current": 1, "lm_prev": 0}


def test_a_damaged_snapshot_is_set_aside_with_a_sentence_and_the_next_takes_its_place(tmp_path: Path) -> None:
    for step in (1, 2):
        commit(Store(tmp_path), step)
    store = Store(tmp_path)
    (store.folder / "lm_current" / "model.bin").unlink()
    with pytest.raises(CheckpointError, match=r"lm_current is not what was saved:\n  model.bin is missing"):
        store.latest()
    with pytest.raises(CheckpointError, match=r"model.bin is missing"):
        store.best()
    assert store.repair() == (
        "lm_current is damaged (model.bin is missing) and was moved to lm_current.damaged; it takes part in nothing",
        "the names were put in order: the snapshot of step 1 (lm_prev) is now lm_current",
    )
    assert steps(store) == {"lm_current": 1}
    assert (store.folder / "lm_current.damaged" / "state.json").exists()


def test_damage_found_by_a_commit_is_reported_and_does_not_stop_it(tmp_path: Path) -> None:
    sentences: list[str] = []
    store = Store(tmp_path, on_notice=sentences.append)
    for step in (1, 2):
        commit(store, step)
    (store.folder / "lm_prev" / "state.json").write_text("")
    commit(store, 3)
    assert steps(store) == {"lm_current": 3, "lm_prev": 2}
    assert len(sentences) == 1
    assert sentences[0].startswith("lm_prev is damaged (state.json has 0 bytes instead of ")


def test_a_run_without_one_usable_snapshot_does_not_start_from_zero(tmp_path: Path) -> None:
    store = Store(tmp_path)
    commit(store, 1)
    (store.folder / "lm_current" / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match=r"no usable snapshot is left:\n  lm_current: lm_current has no manifest"):
        store.repair()
    with pytest.raises(CheckpointError, match="no usable snapshot is left"):
        Store(tmp_path).repair()


def test_a_run_in_progress_saves_on_when_all_its_snapshots_were_damaged(tmp_path: Path) -> None:
    store = Store(tmp_path)
    commit(store, 1)
    (store.folder / "lm_current" / "manifest.json").unlink()
    commit(store, 2)
    assert steps(store) == {"lm_current": 2}
    assert (store.folder / "lm_current.damaged").is_dir()


def test_a_file_too_many_does_not_make_a_snapshot_unusable(tmp_path: Path) -> None:
    store = Store(tmp_path)
    (commit(store, 1) / "notes.txt").write_text("mine")
    assert store.repair() == ()
    commit(store, 2)
    assert (store.folder / "lm_prev" / "notes.txt").exists()


def test_names_deleted_by_hand_close_up(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for step in (1, 2, 3):
        commit(store, step)
    for path in (store.folder / "lm_current").iterdir():
        path.unlink()
    (store.folder / "lm_current").rmdir()
    assert len(store.repair()) == 2
    assert steps(store) == {"lm_current": 2, "lm_prev": 1}


def tamper_record(manifest: dict[str, object]) -> None:
    manifest["record"] = {**manifest["record"], "step": 2}  # type: ignore[dict-item]


def tamper_format(manifest: dict[str, object]) -> None:
    manifest["format"] = 99


@pytest.mark.parametrize(
    ("tamper", "message"), [(tamper_record, "does not match its own sha256"), (tamper_format, "has format 99")]
)
def test_a_manifest_changed_by_hand_is_not_believed(
    tmp_path: Path, tamper: Callable[[dict[str, object]], None], message: str
) -> None:
    folder = commit(Store(tmp_path), 1)
    manifest = json.loads((folder / "manifest.json").read_text())
    tamper(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=message):
        verify(folder)
