"""Start the same command once per rank on this machine, and stay with the ranks until all of them have ended.

1. A port on the loopback interface is kept for them to meet at; each rank gets its share of the processor's cores.
2. Rank 0 speaks: its stdout and stderr are ours. Of the others, only the stderr of the one that failed first is shown.
3. SIGINT, SIGTERM and SIGHUP are passed on, so that every rank finishes its step and saves. Ranks run in sessions of
   their own, or the terminal's Ctrl-C would reach them twice, which means: stop without saving.
4. A rank that fails takes the others with it. When this process dies, however it dies, the kernel kills the ranks.
5. A rank may leave a note for whoever launched it: what its exit code cannot say.
"""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, MappingProxyType
from typing import IO, NoReturn

from dreamlm.core.errors import RangeError
from dreamlm.core.training.interruption import ending_signals

LOOPBACK = "127.0.0.1"
GRACE_SECONDS = 10.0
"""How long the others may take to end by themselves after a rank failed, and again after they were asked to."""
FOUND_BY_ALL = (2, 3, 129, 130, 143)
"""Exit codes that every rank reaches by itself: the user's mistake; after a snapshot, a pause or a signal."""
MICRO_ROWS = "DREAMLM_MICRO_ROWS"
"""Environment variable: the most rows that a rank may put into a micro-batch."""
NOTE = "DREAMLM_NOTE"
"""Environment variable: the file in which a rank may leave its note."""
POLL_SECONDS = 0.05
SHOWN_LINES = 40
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Ended:
    """How a group of ranks ended."""

    exit_code: int
    """0, or that of the first rank that failed; 128 + n when signal n killed it."""
    failed_rank: int | None
    output: str
    """The last lines the failed rank wrote to stderr; empty when the first rank has said the same already.
    Of a rank that a signal killed, the signal, for such a rank could say nothing."""
    note: str = ""
    """What a failed rank left for us; empty when none did."""
    signal_number: int = 0
    """The first signal that was passed on to the ranks; 0 when there was none."""


def end_rank(code: int) -> NoReturn:
    """End this process at once, everything it had to say and to save being out.

    Under load, ranks that had finished were seen to end with exit code 134, rarely: "terminate called without an active
    exception", which is what C++ says when the interpreter's own exit destroys a thread that still runs.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def leave_note(text: str) -> bool:
    """Leave a note for the `launch` that started this rank; False when something else started it."""
    if NOTE not in os.environ:
        return False
    Path(os.environ[NOTE]).write_text(text, encoding="utf-8")
    return True


def launch(
    command: Sequence[str],
    processes: int,
    grace_seconds: float = GRACE_SECONDS,
    environment: Mapping[str, str] = MappingProxyType({}),
) -> Ended:
    """Run `command` as `processes` ranks; returns when none is left. Only from the main thread, because of signals.

    `environment`: what the ranks are told beside their places.

    Raises: RangeError when there is less than one process to start.
    """
    if processes < 1:
        raise RangeError(f"{processes} processes cannot train", where="--nproc", valid=["1 or more"])
    cores = len(os.sched_getaffinity(0))
    with ExitStack() as resources:
        port = resources.enter_context(_kept_port())
        folder = Path(resources.enter_context(tempfile.TemporaryDirectory(prefix="dreamlm-ranks-")))
        logs = [folder / f"rank{rank}.stderr" for rank in range(processes)]
        note = folder / "note"
        ranks: list[subprocess.Popen[bytes]] = []
        resources.callback(_kill, ranks)
        with _forwarded(ranks) as signals:
            for rank in range(processes):
                told = {**_environment(rank, processes, port, cores), **environment, NOTE: str(note)}
                ranks.append(_start(command, told, None if rank == 0 else logs[rank]))
            failed = _wait(ranks, grace_seconds)
        first_signal = next(iter(signals), 0)
        if failed is None:
            return Ended(0, None, "", signal_number=first_signal)
        code, first = ranks[failed].returncode, ranks[0].returncode
        output = _tail(logs[failed]) if failed and not (code == first and code in FOUND_BY_ALL) else ""
        if code < 0:
            output = f"{output}\nkilled by {signal.Signals(-code).name}".lstrip()
        left = note.read_text(encoding="utf-8") if note.exists() else ""
        return Ended(code if code >= 0 else 128 - code, failed, output, left, first_signal)


def _environment(rank: int, processes: int, port: int, cores: int) -> dict[str, str]:
    """What torchrun sets, plus what makes several ranks share a processor peacefully unless the user knows better."""
    place = {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": LOOPBACK,
        "MASTER_PORT": str(port),
    }
    defaults = {
        "OMP_NUM_THREADS": str(max(1, cores // processes)),
        "OMP_WAIT_POLICY": "PASSIVE",
        "GLOO_SOCKET_IFNAME": "lo",
    }
    return {**defaults, **os.environ, **place}


def _start(command: Sequence[str], environment: Mapping[str, str], log: Path | None) -> subprocess.Popen[bytes]:
    """One rank, in a session of its own; `log` gets its stderr, None leaves it ours."""
    with ExitStack() as files:
        stderr: IO[bytes] | None = files.enter_context(log.open("wb")) if log else None
        return subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL if log else None,
            stderr=stderr,
            start_new_session=True,
            preexec_fn=_dies_with(os.getpid()),
        )


def _dies_with(parent: int) -> Callable[[], None]:
    """Runs in the new process: the kernel shall kill it when its parent ends, even by SIGKILL."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def arrange() -> None:
        if prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0 or os.getppid() != parent:
            os._exit(128 + signal.SIGKILL)

    return arrange


def _wait(ranks: Sequence[subprocess.Popen[bytes]], grace_seconds: float) -> int | None:
    """Until every rank has ended; the first that failed, or None. The others of a failed rank are asked, then made, to
    end."""
    failed: int | None = None
    deadlines = {signal.SIGTERM: float("inf"), signal.SIGKILL: float("inf")}
    while any(rank.poll() is None for rank in ranks):
        if failed is None:
            failed = _first_failed(ranks)
            if failed is not None:
                begun = time.monotonic()
                deadlines = {signal.SIGTERM: begun + grace_seconds, signal.SIGKILL: begun + 2 * grace_seconds}
        for number, deadline in deadlines.items():
            if time.monotonic() >= deadline:
                deadlines[number] = float("inf")
                _send(ranks, number)
        time.sleep(POLL_SECONDS)
    return failed if failed is not None else _first_failed(ranks)


def _first_failed(ranks: Sequence[subprocess.Popen[bytes]]) -> int | None:
    return next((number for number, rank in enumerate(ranks) if rank.poll() not in (None, 0)), None)


def _send(ranks: Sequence[subprocess.Popen[bytes]], number: int) -> None:
    for rank in ranks:
        rank.send_signal(number)  # does nothing to a rank whose end was noticed


def _kill(ranks: Sequence[subprocess.Popen[bytes]]) -> None:
    """Leave nothing behind, however we leave."""
    _send(ranks, signal.SIGKILL)
    for rank in ranks:
        rank.wait()


@contextmanager
def _forwarded(ranks: Sequence[subprocess.Popen[bytes]]) -> Iterator[list[int]]:
    """Passes signals on to the ranks; gives the list of those that came."""
    came: list[int] = []

    def forward(number: int, frame: FrameType | None) -> None:
        came.append(number)
        _send(ranks, number)

    before = {number: signal.signal(number, forward) for number in ending_signals()}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _kept_port() -> Iterator[int]:
    """A free port that nobody else gets, and that rank 0 can still listen on: bound, reusable, not listening."""
    with socket.socket() as kept:
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        kept.bind((LOOPBACK, 0))
        yield kept.getsockname()[1]


def _tail(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(lines[-SHOWN_LINES:])
