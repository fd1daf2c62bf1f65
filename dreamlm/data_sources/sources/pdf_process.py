"""The parent's side of `pdf_worker.py`: one reading process, its limits, and what is told when it never answers."""

import json
import signal
import subprocess
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, final

from dreamlm.core.errors import DataError

WORKER = Path(__file__).with_name("pdf_worker.py")
STALL_FACTOR = 4
"""A reader that uses no processor time is ended after this many times its time limit on the clock."""
TRIES_AFTER_CRASH = 2
CRASHED = "crashed the reader"
START_SECONDS = 120.0
OVER_PROCESSOR_TIME = -signal.SIGXCPU if sys.platform != "win32" else None
"""Exit code of a child that the system ended because its processor time was up."""


@dataclass(frozen=True)
class ReadLimits:
    """What one file may cost."""

    time_limit_seconds: float
    memory_limit_bytes: int


@dataclass(frozen=True)
class Extraction:
    """What a PDF held: raw text of its pages, or why there is none."""

    pages: tuple[str | None, ...] = ()
    """None where a page could not be read."""
    page_errors: tuple[str, ...] = ()
    images: bool = False
    """Whether a page without text shows an image: a scan."""
    failure: str = ""
    """Why the whole file is skipped; empty when it could be read."""
    detail: str = ""

    @property
    def crashed(self) -> bool:
        """Whether the reader died: the file's doing, or that of a machine without memory, which may have some later."""
        return self.failure == CRASHED

    def as_json(self) -> dict[str, Any]:
        """The value that `from_json` takes."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Raises: TypeError or KeyError when the value is no extraction."""
        return cls(**{**value, "pages": tuple(value["pages"]), "page_errors": tuple(value["page_errors"])})


class ReadingStopped(Exception):
    """The process was closed while it read."""


@final
class PdfProcess:
    """Reads one PDF after the other in a child process, which is replaced whenever a file has ended it.

    One thread reads; another may close it, and the reading one then gets `ReadingStopped`.
    """

    def __init__(self, limits: ReadLimits) -> None:
        self._limits = limits
        self._child: subprocess.Popen[str] | None = None
        self._closed = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def read(self, path: Path) -> Extraction:
        """The text of a file, or why it has none. A crash is tried once more: another process may have caused it.

        Raises: DataError when the child process cannot be started at all; ReadingStopped after `close`.
        """
        for _ in range(TRIES_AFTER_CRASH):
            extraction = self._read_once(path)
            if self._closed.is_set():
                self._end_child()
                raise ReadingStopped
            if not extraction.crashed:
                break
        return extraction

    def close(self) -> None:
        """End the child process, whatever it is doing; for good."""
        self._closed.set()
        self._end_child()

    def _end_child(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                pipe.close()

    def _read_once(self, path: Path) -> Extraction:
        seconds = self._limits.time_limit_seconds
        request = {"path": str(path), "time_limit_seconds": seconds}
        child = self._child or self._start()
        answer, stalled = _ask(child, request, seconds * STALL_FACTOR)
        if answer is None:
            code = child.wait()
            self._end_child()
            if stalled or code == OVER_PROCESSOR_TIME:
                return Extraction(failure=f"over the time limit of {seconds:g} s")
            return Extraction(failure=CRASHED, detail=f"exit code {code}")
        if answer.get("failure") == "over the memory limit":
            self._end_child()
            megabytes = self._limits.memory_limit_bytes >> 20
            return Extraction(failure=f"over the memory limit of {megabytes} MiB")
        if "failure" in answer:
            return Extraction(failure=answer["failure"], detail=answer["detail"])
        return Extraction(tuple(answer["pages"]), tuple(answer["page_errors"]), answer["images"])

    def _start(self) -> subprocess.Popen[str]:
        # -P keeps the worker's folder off its import path: the modules beside it must not shadow anyone else's.
        command = [sys.executable, "-P", str(WORKER)]
        child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="ascii",
        )
        self._child = child
        answer, _ = _ask(child, {"memory_limit_bytes": self._limits.memory_limit_bytes}, START_SECONDS)
        if answer is None:
            code = child.wait()
            self._end_child()
            raise DataError(
                f"the process that reads PDFs ended at its start (exit code {code})",
                where=f"memory limit of {self._limits.memory_limit_bytes >> 20} MiB",
                hint="raise memory_limit_megabytes, or check that pypdf can be imported",
            )
        return child


def _ask(
    child: subprocess.Popen[str], request: dict[str, Any], patience_seconds: float
) -> tuple[dict[str, Any] | None, bool]:
    """The child's answer, or None when it ended without one; and whether that was because our patience did."""
    stalled = threading.Event()

    def end() -> None:
        stalled.set()
        child.kill()

    timer = threading.Timer(patience_seconds, end)
    timer.daemon = True
    timer.start()
    try:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(json.dumps(request) + "\n")
        child.stdin.flush()
        line = child.stdout.readline()
        answer: dict[str, Any] | None = json.loads(line) if line.endswith("\n") else None
    except BrokenPipeError:
        answer = None
    finally:
        timer.cancel()
    return answer, stalled.is_set()
