"""Trains in forked children that a test kills. Started once per test, so that torch is imported once.

Reads commands on stdin, one JSON list each: [run folder, seconds until the signal or null, signal number, moment].
The moment is null, or ["step" | "save", number]: SIGKILL just behind that step, or behind the snapshot of it.
Answers each with the child's exit status on stdout.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import torch
import torch._dynamo  # torch's optimizers import it: once, and not in each child
import torch.utils.tensorboard

from dreamlm.core.training.hooks import Hook, RunStart, Saved, StepReport
from dreamlm.data_sources.progress import Silence
from dreamlm.presets.resolve import resolve
from dreamlm.wiring.training import TrainRequest, train


class Starter(Hook):
    """Tells the parent that training has begun, and ends the process at a moment."""

    def __init__(self, pipe: int, moment: list[str | int] | None) -> None:
        self._pipe, self._moment = pipe, moment

    def on_start(self, start: RunStart) -> None:
        os.write(self._pipe, b"x")

    def on_step(self, report: StepReport) -> None:
        self._pass("step", report.step)

    def on_save(self, saved: Saved) -> None:
        self._pass("save", saved.step)

    def _pass(self, what: str, step: int) -> None:
        if self._moment == [what, step]:
            os.kill(os.getpid(), signal.SIGKILL)


def run(preset: str, folder: str, pipe: int, moment: list[str | int] | None) -> None:
    torch.set_num_threads(1)
    try:
        train(TrainRequest(resolve(preset), Path(folder), workers=1), Starter(pipe, moment), Silence())
    except BaseException as error:  # noqa: BLE001  the status is the answer; the text goes to the test's log
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
        os._exit(1)
    os._exit(0)


def serve(preset: str) -> None:
    for line in sys.stdin:
        folder, delay, number, moment = json.loads(line)
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            run(preset, folder, writer, moment)
        os.close(writer)
        if delay is not None:
            os.read(reader, 1)
            time.sleep(delay)
            os.kill(child, number)
        _, status = os.waitpid(child, 0)
        os.close(reader)
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        sys.stdout.write(("killed" if killed else str(os.waitstatus_to_exitcode(status))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve(sys.argv[1])
