"""Stopped between any two file-system operations, a store holds the old or the new state, complete, in order."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from faulty_files import Crash, FaultyFiles, inodes
from small_snapshots import ROOM, commit, steps, writer

from dreamlm.checkpoints.manifest import Record
from dreamlm.checkpoints.store import Store
from dreamlm.checkpoints.verification import verify

# Losses and finite flags of the commits before the one that is cut, and of that one.
HISTORIES = {
    "first": [(None, True)],
    "second": [(3.0, True), (2.0, True)],
    "a snapshot falls off": [(3.0, True), (2.9, True), (2.8, True), (2.7, True)],
    "the best is kept": [(1.0, True), (2.0, True), (3.0, True), (4.0, True)],
    "a kept best is replaced": [(1.0, True), (2.0, True), (3.0, True), (4.0, True), (0.5, True)],
    "the last finite is kept": [(None, True), (None, False), (None, False), (None, False)],
    "best and last finite are kept": [(1.0, True), (2.0, True)] + 3 * [(None, False)],
    "one is both, then best only": [(1.0, True)] + 3 * [(None, False)] + [(2.0, True)],
}


@pytest.fixture(params=HISTORIES.values(), ids=HISTORIES)
def history(request: pytest.FixtureRequest) -> list[tuple[float | None, bool]]:
    return request.param


def build(run: Path, history: list[tuple[float | None, bool]]) -> Path:
    for step, (loss, finite) in enumerate(history[:-1]):
        commit(Store(run, FaultyFiles()), step, loss, finite)
    run.mkdir(exist_ok=True)
    return run


def commit_last(run: Path, history: list[tuple[float | None, bool]], files: FaultyFiles) -> None:
    step, (loss, finite) = len(history) - 1, history[-1]
    Store(run, files).commit(Record(step, step * 10, finite, loss), writer(step, files.step), expected_bytes=ROOM)


def copies(folder: Path, original: Path, count: int) -> Iterator[tuple[int, Path]]:
    for number in range(count):
        shutil.copytree(original, folder / str(number))
        yield number, folder / str(number)


def states(
    tmp_path: Path, history: list[tuple[float | None, bool]]
) -> tuple[Path, dict[str, int], dict[str, int], int]:
    """A run before the last commit, its named steps before and after, and how many operations the commit takes."""
    before = build(tmp_path / "before", history)
    after = shutil.copytree(before, tmp_path / "after")
    files = FaultyFiles()
    commit_last(after, history, files)
    return before, steps(Store(before)), steps(Store(after)), files.operations


def require_sound(run: Path, allowed: list[dict[str, int]]) -> None:
    store = Store(run, FaultyFiles())
    store.repair()
    assert steps(store) in allowed
    for info in store.snapshots():
        verify(info.path)
    assert {path.name for path in store.folder.glob("*")} == set(steps(store))
    assert store.repair() == ()


def test_a_commit_cut_before_any_operation_leaves_the_old_or_the_new_state(
    tmp_path: Path, history: list[tuple[float | None, bool]]
) -> None:
    before, old, new, operations = states(tmp_path, history)
    assert operations > 12
    for cut, run in copies(tmp_path, before, operations):
        with pytest.raises(Crash):
            commit_last(run, history, FaultyFiles(cut))
        require_sound(run, [old, new])


def test_losing_what_was_not_synced_changes_nothing(tmp_path: Path, history: list[tuple[float | None, bool]]) -> None:
    before, old, new, operations = states(tmp_path, history)
    for cut, run in copies(tmp_path, before, operations):
        files, known = FaultyFiles(cut), inodes(run)
        with pytest.raises(Crash):
            commit_last(run, history, files)
        files.lose_unsynced(run / "checkpoints", known)
        require_sound(run, [old, new])


def test_a_repair_cut_before_any_operation_is_finished_by_the_next_one(tmp_path: Path) -> None:
    history = HISTORIES["one is both, then best only"]
    before, old, new, operations = states(tmp_path, history)
    for cut, torn in copies(tmp_path, before, operations):
        with pytest.raises(Crash):
            commit_last(torn, history, FaultyFiles(cut))
        whole, probe = FaultyFiles(), shutil.copytree(torn, tmp_path / f"probe-{cut}")
        Store(probe, whole).repair()
        for second_cut, run in copies(tmp_path / f"cut-{cut}", torn, whole.operations):
            with pytest.raises(Crash):
                Store(run, FaultyFiles(second_cut)).repair()
            require_sound(run, [old, new])


@pytest.mark.parametrize(
    "change", [lambda s: s.rotate("lm_prev2"), lambda s: s.rotate("lm_best")], ids=["ring", "best"]
)
def test_a_rotation_cut_before_any_operation_leaves_the_old_or_the_new_order(
    tmp_path: Path, change: Callable[[Store], object]
) -> None:
    before = build(tmp_path / "before", [*HISTORIES["the best is kept"], (None, True)])
    after = shutil.copytree(before, tmp_path / "after")
    files = FaultyFiles()
    change(Store(after, files))
    old, new = steps(Store(before)), steps(Store(after))
    assert old != new
    for cut, run in copies(tmp_path, before, files.operations):
        with pytest.raises(Crash):
            change(Store(run, FaultyFiles(cut)))
        require_sound(run, [old, new])


def test_a_prune_cut_before_any_operation_leaves_whole_snapshots(tmp_path: Path) -> None:
    before = build(tmp_path / "before", [*HISTORIES["the best is kept"], (None, True)])
    files = FaultyFiles()
    Store(shutil.copytree(before, tmp_path / "after"), files).prune(keep_rolling=1)
    for cut, run in copies(tmp_path, before, files.operations):
        with pytest.raises(Crash):
            Store(run, FaultyFiles(cut)).prune(keep_rolling=1)
        store = Store(run)
        store.repair()
        left = steps(store)
        assert left["lm_current"] == 3
        assert 0 in left.values()
        for info in store.snapshots():
            verify(info.path)


CHILD = """
import os, sys
from pathlib import Path
from faulty_files import FaultyFiles
from small_snapshots import ROOM, Record, Store, writer
files = FaultyFiles(int(sys.argv[2]), lambda: os._exit(9))
Store(Path(sys.argv[1]), files).commit(Record(4, 40, True, 0.5), writer(4, files.step), expected_bytes=ROOM)
"""


def test_a_process_that_dies_before_any_operation_leaves_the_old_or_the_new_state(tmp_path: Path) -> None:
    before, old, new, operations = states(tmp_path, HISTORIES["a kept best is replaced"])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    for cut, run in copies(tmp_path, before, operations):
        child = subprocess.run([sys.executable, "-c", CHILD, run, str(cut)], env=environment, check=False)
        assert child.returncode == 9
        require_sound(run, [old, new])
