"""A preparation killed at any moment leaves no half corpus, and the next run writes the same bytes."""

import subprocess
import sys
import time
from pathlib import Path

import prepare_by_hand
import pytest
from prepare_by_hand import content, main, write_texts

KILLS = 4


def start(base: Path, folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, prepare_by_hand.__file__, str(base), str(folder), "2"])


def test_a_killed_preparation_run_again_gives_the_same_bytes(tmp_path: Path) -> None:
    write_texts(tmp_path / "texts", files=2, documents=100)
    began = time.monotonic()
    assert start(tmp_path, tmp_path / "unbroken").wait() == 0
    seconds = time.monotonic() - began
    expected = content(tmp_path / "unbroken")
    killed = 0
    for kill in range(KILLS):
        folder = tmp_path / f"killed-{kill}"
        process = start(tmp_path, folder)
        time.sleep(seconds * (0.35 + 0.65 * kill / KILLS))
        process.kill()
        killed += process.wait() < 0
        assert not folder.exists() or content(folder) == expected
        main([str(tmp_path), str(folder), "1"])
        assert content(folder) == expected
        leftovers = [path.name for path in tmp_path.iterdir() if path.name.startswith(f".{folder.name}.preparing")]
        assert leftovers == []
    assert killed >= KILLS // 2


def test_two_processes_at_once_do_not_collide(tmp_path: Path) -> None:
    write_texts(tmp_path / "texts", files=1, documents=60)
    both = [start(tmp_path, tmp_path / "corpus") for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    main([str(tmp_path), str(tmp_path / "alone"), "1"])
    assert content(tmp_path / "corpus") == content(tmp_path / "alone")


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="processes are listed from /proc")
def test_workers_end_with_a_killed_parent(tmp_path: Path) -> None:
    write_texts(tmp_path / "texts", files=2, documents=100)
    process = start(tmp_path, tmp_path / "corpus")
    deadline = time.monotonic() + 60
    while len(workers := children(process.pid)) < 2 and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert workers, "the preparation ended before it had workers"
    process.kill()
    process.wait()
    while any(Path(f"/proc/{worker}").is_dir() and not is_zombie(worker) for worker in workers):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def children(parent: int) -> list[int]:
    """Living child processes."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended while the folder was read
        if int(fields[1]) == parent:
            found.append(int(stat.parent.name))
    return found


def is_zombie(process: int) -> bool:
    """Whether it has ended and nobody has collected it."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True
