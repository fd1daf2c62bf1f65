"""What a step takes of memory: of a GPU, of the machine, of a control group."""

import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from dreamlm.core.errors import UserMistake
from dreamlm.core.training import gauge
from dreamlm.core.training.gauge import GpuGauge, ProcessGauge, Reading, available_bytes, build_gauge

LIMIT = 1000 * 1024


@pytest.fixture
def process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files of a process, of which a machine with 1,000 KiB has one."""
    monkeypatch.setattr(gauge, "available_bytes", lambda: LIMIT)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    (tmp_path / "clear_refs").touch()
    write_status(tmp_path, resident=150, peak=150)
    return tmp_path


def write_status(process: Path, resident: int, peak: int, of_files: int = 50) -> None:
    numbers = {"VmHWM": peak, "VmRSS": resident, "RssFile": of_files}
    lines = ["Name:\tpython", *(f"{name}:\t {number} kB" for name, number in numbers.items()), "Threads:\t1"]
    (process / "status").write_text("\n".join(lines))


def test_a_process_counts_its_pages_but_not_those_of_files(process: Path) -> None:
    measured = ProcessGauge(process)
    write_status(process, resident=250, peak=900)
    measured.begin(exactly=True)
    assert (process / "clear_refs").read_text() == "5"
    write_status(process, resident=300, peak=650)
    assert measured.read() == Reading(0.2, 0.6)


@pytest.mark.parametrize("name", ["LOCAL_WORLD_SIZE", "LOCAL_SIZE"])
def test_processes_of_one_machine_share_its_memory(process: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "2")
    measured = ProcessGauge(process)
    assert measured.read() == Reading(0.2, 0.2, exact=False)


def test_a_system_that_keeps_no_record_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(UserMistake, match="does not tell the peak") as caught:
        ProcessGauge(tmp_path / "nowhere")
    assert caught.value.where == "train.memory.target"


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's record is Linux's")
def test_what_was_freed_again_counts_for_the_peak_of_its_step_alone() -> None:
    measured, size = build_gauge(torch.device("cpu")), 256 * 2**20
    measured.begin(exactly=True)
    torch.ones(size // 4)
    first = measured.read()
    measured.begin(exactly=True)
    second = measured.read()
    grown = (first.peak - first.base) * available_bytes()
    assert 0.9 * size < grown < 1.5 * size
    assert (second.peak - second.base) * available_bytes() < 0.2 * size


def test_a_gpu_is_read_from_the_allocator(monkeypatch: pytest.MonkeyPatch) -> None:
    resets: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100, 1000))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", resets.append)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 200)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 700)
    measured = build_gauge(torch.device("cuda"))
    assert isinstance(measured, GpuGauge)
    measured.begin(exactly=False)
    assert resets == [torch.device("cuda")]
    assert measured.read() == Reading(0.2, 0.7)


def test_what_lies_over_the_base_grows_with_the_rows() -> None:
    reading = Reading(base=0.2, peak=0.5)
    assert [reading.with_rows(4, rows) for rows in (2, 4, 8)] == pytest.approx([0.35, 0.5, 0.8])


@pytest.mark.parametrize(
    ("groups", "limits", "expected"),
    [
        ("0::/\n", {"memory.max": "max"}, None),
        ("0::/\n", {"memory.max": "5000"}, 5000),
        ("0::/job/step\n", {"job/step/memory.max": "max", "job/memory.max": "7000", "memory.max": "9000"}, 7000),
        ("4:memory:/job\n0::/\n", {"memory/job/memory.limit_in_bytes": "3000"}, 3000),
        ("4:memory:/elsewhere\n", {"memory/memory.limit_in_bytes": "4000"}, 4000),
        ("4:memory:/\n", {"memory/memory.limit_in_bytes": "9223372036854771712"}, None),
        ("5:cpu:/job\n", {"cpu/job/memory.max": "1"}, None),
        ("", {}, None),
    ],
)
def test_a_control_group_may_allow_less_than_the_machine_has(
    tmp_path: Path, groups: str, limits: dict[str, str], expected: int | None
) -> None:
    for name, text in {"proc/self/cgroup": groups, **{f"sys/fs/cgroup/{k}": v for k, v in limits.items()}}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert available_bytes(tmp_path) == (expected or psutil.virtual_memory().total)
    assert available_bytes(tmp_path / "nowhere") == psutil.virtual_memory().total


def test_what_the_c_library_keeps_counts_until_a_reading_has_to_be_exact(
    process: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_back: list[int] = []
    monkeypatch.setattr(gauge.ctypes, "CDLL", lambda name: SimpleNamespace(malloc_trim=given_back.append))
    measured = ProcessGauge(process)
    measured.begin(exactly=False)
    assert (measured.read().exact, given_back) == (False, [])
    measured.begin(exactly=True)
    assert (measured.read().exact, given_back) == (True, [0])


def test_a_c_library_that_keeps_nothing_has_nothing_to_give_back(
    process: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gauge.ctypes, "CDLL", lambda name: SimpleNamespace())
    measured = ProcessGauge(process)
    measured.begin(exactly=True)
    assert measured.read().exact
