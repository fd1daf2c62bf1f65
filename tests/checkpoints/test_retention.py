"""Which snapshots stay, against a naive model that remembers every commit."""

import math
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from faulty_files import Crash, FaultyFiles
from hypothesis import given, settings
from hypothesis import strategies as st
from small_snapshots import commit, step_of, steps

from dreamlm.checkpoints.store import Store
from dreamlm.core.errors import CheckpointError, UserMistake

LOSSES = st.one_of(st.none(), st.sampled_from([1.0, 2.0, 3.0, math.inf, math.nan]))


def naive(history: list[tuple[float | None, bool]]) -> dict[str, int]:
    """The names that a history of commits must leave, by going through all of it."""
    count = len(history)
    names = dict(zip(["lm_current", "lm_prev", "lm_prev2"], range(count - 1, -1, -1), strict=False))
    best = None
    for step, (loss, finite) in enumerate(history):
        if finite and loss is not None and math.isfinite(loss) and (best is None or loss <= history[best][0]):
            best = step
    finite_steps = [step for step, (_, finite) in enumerate(history) if finite]
    for name, step in (("lm_best", best), ("lm_finite", finite_steps[-1] if finite_steps else None)):
        if step is not None and step not in names.values():
            names[name] = step
    return names


@settings(max_examples=40)
@given(st.lists(st.tuples(LOSSES, st.booleans()), min_size=1, max_size=9))
def test_rolling_best_and_last_finite_snapshots_stay(history: list[tuple[float | None, bool]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder), FaultyFiles())
        for step, (loss, finite) in enumerate(history):
            commit(store, step, loss, finite)
            assert steps(store) == naive(history[: step + 1])
        latest = store.latest()
        assert latest is not None
        assert latest.record.step == len(history) - 1


def test_best_and_last_finite_are_found_wherever_they_are(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert (store.latest(), store.best(), store.last_finite()) == (None, None, None)
    for step, (loss, finite) in enumerate([(1.0, True), (2.0, True), (0.1, False), (None, False), (None, False)]):
        commit(store, step, loss, finite)
    best, finite_one = store.best(), store.last_finite()
    assert best is not None
    assert finite_one is not None
    assert (best.name, best.record.step) == ("lm_best", 0)
    assert (finite_one.name, finite_one.record.step) == ("lm_finite", 1)


def test_a_kept_snapshot_is_the_same_folder_renamed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    inode = commit(store, 0, 1.0).stat().st_ino
    for step in (1, 2, 3):
        commit(store, step, 2.0)
    assert (store.folder / "lm_best").stat().st_ino == inode


def test_rotating_three_snapshots_three_times_restores_the_order(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for step in range(3):
        commit(store, step)
    order = []
    for _ in range(3):
        store.rotate("lm_prev2")
        order.append(tuple(steps(store).values()))
    assert order == [(0, 2, 1), (1, 0, 2), (2, 1, 0)]


def test_rotating_to_the_current_snapshot_changes_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for step in range(2):
        commit(store, step)
    before = (store.folder / "lm_current" / "manifest.json").read_bytes()
    store.rotate("lm_current")
    assert (store.folder / "lm_current" / "manifest.json").read_bytes() == before


def test_a_commit_after_going_back_is_the_newest_although_its_step_is_not(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for step in (10, 20, 30):
        commit(store, step)
    store.rotate("lm_prev2")
    commit(store, 15)
    assert steps(store) == {"lm_current": 15, "lm_prev": 10, "lm_prev2": 30}


def test_rotating_to_a_snapshot_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    store = Store(tmp_path)
    commit(store, 0)
    with pytest.raises(UserMistake) as caught:
        store.rotate("lm_prev")
    assert str(caught.value) == (f"there is no snapshot lm_prev\nat: {store.folder}\nvalid: lm_current")


def test_prune_keeps_the_best_and_the_last_finite_unless_told_otherwise(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for step, (loss, finite) in enumerate([(1.0, True), (2.0, True), (None, False), (None, False)]):
        commit(store, step, loss, finite)
    assert [info.record.step for info in store.prune(keep_rolling=1)] == [2]
    assert steps(store) == {"lm_current": 3, "lm_finite": 1, "lm_best": 0}
    assert store.repair() == ()
    assert [info.record.step for info in store.prune(1, keep_best=False, keep_finite=False)] == [1, 0]
    assert steps(store) == {"lm_current": 3}


@pytest.mark.parametrize("keep", [0, 4])
def test_prune_refuses_to_keep_none_or_more_than_there_are_names_for(tmp_path: Path, keep: int) -> None:
    store = Store(tmp_path)
    commit(store, 0)
    with pytest.raises(UserMistake, match=f"cannot keep {keep} rolling"):
        store.prune(keep_rolling=keep)


def test_commands_on_a_folder_without_a_run_create_nothing(tmp_path: Path) -> None:
    for change in (Store(tmp_path / "no").rotate, Store(tmp_path / "no").prune):
        with pytest.raises(UserMistake, match="no snapshots"):
            change()
    assert Store(tmp_path / "no").repair() == ()
    assert not (tmp_path / "no").exists()


def test_rotate_means_the_name_that_a_snapshot_had_before_the_repair(tmp_path: Path) -> None:
    told: list[str] = []
    store = Store(tmp_path, on_notice=told.append)
    for step in (1, 2, 3):
        commit(store, step)
    (store.folder / "lm_current" / "model.bin").unlink()
    store.rotate("lm_prev")
    assert steps(store) == {"lm_current": 2, "lm_prev": 1}
    assert told[0].startswith("lm_current is damaged (model.bin is missing) and was moved to lm_current.damaged")


def test_a_damaged_snapshot_is_not_gone_back_to(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for step in (1, 2, 3):
        commit(store, step)
    (store.folder / "lm_prev" / "model.bin").unlink()
    with pytest.raises(CheckpointError, match=r"lm_prev is not what was saved:\n  model.bin is missing"):
        store.rotate("lm_prev")


def test_prune_tells_what_it_repaired(tmp_path: Path) -> None:
    told: list[str] = []
    store = Store(tmp_path, on_notice=told.append)
    for step in (1, 2):
        commit(store, step)
    (store.folder / "lm_current" / "model.bin").unlink()
    store.prune()
    assert told[0].startswith("lm_current is damaged")


def test_rotate_does_not_lose_the_snapshot_to_a_save_that_the_repair_completes(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        commit(Store(tmp_path), step)
    files = FaultyFiles()
    whole = Store(shutil.copytree(tmp_path, tmp_path / "whole"), files)
    commit(whole, 4)
    for cut in range(files.operations):  # among them where the save is complete and bears no name yet
        run = shutil.copytree(tmp_path / "checkpoints", tmp_path / str(cut) / "checkpoints").parent
        with suppress(Crash):
            commit(Store(run, FaultyFiles(cut)), 4)
        if (run / "checkpoints" / "lm_prev2").exists():
            asked = step_of(run / "checkpoints" / "lm_prev2")
            Store(run).rotate("lm_prev2")
            assert steps(Store(run))["lm_current"] == asked


def test_what_fell_off_does_not_come_back(tmp_path: Path) -> None:
    """A prune was cut short before it deleted anything."""
    store = Store(tmp_path)
    for step in (1, 2, 3):
        commit(store, step)
    (store.folder / "lm_prev2").rename(store.folder / ".dropped-lm_prev2")
    assert store.repair() == ("the deletion of an old snapshot was finished",)
    assert steps(store) == {"lm_current": 3, "lm_prev": 2}
    for name in ("lm_current", "lm_prev"):
        (store.folder / name).rename(store.folder / f".dropped-{name}")
    store.repair()  # nothing else is left
    assert steps(store) == {"lm_current": 3}
