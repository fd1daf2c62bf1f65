"""How much of its memory a process takes while a step is computed.

On a GPU: what torch has allocated, of what the device has. On the CPU: pages of the process that belong to no file, of
what the control group allows or the machine has, shared equally among the processes of the run on this machine.
Memory-mapped files do not count: the system takes their pages back whenever it needs them. The C library keeps what
was freed for the next allocation, so pages tell what a process once needed; an exact reading begins with giving them
back, which costs that step up to a quarter more time.
"""

import ctypes
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, final

import psutil
import torch

from dreamlm.core.errors import UserMistake

_RESET_PEAK = "5"
"""What the kernel takes for: forget the highest number of resident pages so far (proc(5), clear_refs)."""
_LIMITS = {"memory": ("memory", "memory.limit_in_bytes"), "": ("", "memory.max")}
"""Controllers of /proc/self/cgroup that limit memory: where their groups lie, and the file with the limit."""


@dataclass(frozen=True)
class Reading:
    """Shares of what is available."""

    base: float
    """Before the forward pass: weights, optimizer state, and what else does not depend on the micro-batch."""
    peak: float
    """The most until the last backward pass was done."""
    exact: bool = True
    """False when it may count what was free already: then neither number is too small, but both may be too large."""

    def with_rows(self, now: int, then: int) -> float:
        """The peak to expect of `then` rows in a micro-batch, when it was read with `now`.

        What lies over the base is taken to grow in proportion. Gradients do not, so growth is over-estimated.
        """
        return self.base + (self.peak - self.base) * then / now


class Gauge(Protocol):
    """Reads what lies between two moments."""

    def begin(self, exactly: bool) -> None:
        """Before the forward pass. `exactly`: the reading has to be exact, although that may take time."""
        ...

    def read(self) -> Reading:
        """After the backward pass."""
        ...


def build_gauge(device: torch.device) -> Gauge:
    """Of this process on the device.  Raises: UserMistake where no peak can be read."""
    return GpuGauge(device) if device.type == "cuda" else ProcessGauge()


@final
class GpuGauge:
    """Implements `Gauge` with the counters of torch's allocator."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._total_bytes = device, torch.cuda.mem_get_info(device)[1]
        self._base_bytes = 0

    def begin(self, exactly: bool) -> None:
        torch.cuda.reset_peak_memory_stats(self._device)
        self._base_bytes = torch.cuda.memory_allocated(self._device)

    def read(self) -> Reading:
        peak_bytes = torch.cuda.max_memory_allocated(self._device)
        return Reading(self._base_bytes / self._total_bytes, peak_bytes / self._total_bytes)


@final
class ProcessGauge:
    """Implements `Gauge` with the Linux kernel's record of the process.  Cost: 0.3 ms, unless exact."""

    def __init__(self, process: Path = Path("/proc/self")) -> None:
        """Raises: UserMistake on a system that keeps no such record, or lets nobody reset it."""
        self._process = process
        self._total_bytes = available_bytes() // _processes_here()
        self._base_bytes, self._exact = 0, False
        # Other C libraries than glibc keep less, and have no such function.
        self._give_back = getattr(ctypes.CDLL(None), "malloc_trim", lambda pad: 0)
        try:
            self.begin(False)
        except (OSError, KeyError) as error:
            raise UserMistake(
                f"this system does not tell the peak of a step's memory on the CPU: {error}",
                where="train.memory.target",
                hint="leave it out; when memory runs out, the micro-batch is halved all the same",
            ) from error

    def begin(self, exactly: bool) -> None:
        self._exact = exactly
        if exactly:
            self._give_back(0)
        (self._process / "clear_refs").write_text(_RESET_PEAK)
        pages = self._pages()
        self._base_bytes = pages["VmRSS"] - pages["RssFile"]

    def read(self) -> Reading:
        pages = self._pages()
        peak_bytes = max(self._base_bytes, pages["VmHWM"] - pages["RssFile"])
        return Reading(self._base_bytes / self._total_bytes, peak_bytes / self._total_bytes, self._exact)

    def _pages(self) -> dict[str, int]:
        """Bytes by the kernel's names."""
        lines = (line.split() for line in (self._process / "status").read_text().splitlines())
        found = {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines if words[-1:] == ["kB"]}
        return {name: found[name] for name in ("VmHWM", "VmRSS", "RssFile")}


def _processes_here() -> int:
    """Processes of the run on this machine, by the names of torchrun and of the `deepspeed` launcher."""
    return int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE") or 1)


def available_bytes(root: Path = Path("/")) -> int:
    """What this process may use: the machine's memory, or less where its control group, or one around it, says so."""
    limits = [psutil.virtual_memory().total]
    groups = root / "proc/self/cgroup"
    for line in groups.read_text().splitlines() if groups.exists() else ():
        _, controllers, path = line.split(":", 2)
        if controllers not in _LIMITS:
            continue
        folder, name = _LIMITS[controllers]
        top = root / "sys/fs/cgroup" / folder
        group = top / path.lstrip("/")
        for place in (group, *group.parents):
            if place.is_relative_to(top) and (place / name).exists():
                text = (place / name).read_text().strip()
                limits += [int(text)] if text.isdecimal() else []  # "max" is no limit
    return int(min(limits))
