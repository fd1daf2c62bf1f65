"""Trains policies in forked children that a test kills. Started once per test file, so that torch is imported once.

Reads orders on stdin, one JSON list each: [folder of the model that the policy begins as, run, settings, kill], where
kill is null, or [moment, count, seconds]: SIGKILL so long after a moment, the first letter of its name in `MOMENTS`,
came for the count-th time; after 0 seconds nothing more happens in between. A preset file instead of a folder is a
model to train. Answers with a JSON list each: the exit status or "killed", and the moments in their order.
"""

import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # torch's optimizers import it: once, and not in each child
import torch.utils.tensorboard

from dreamlm.checkpoints.files import DiskFiles
from dreamlm.core.rl import rollout
from dreamlm.core.rl.collect import Collector
from dreamlm.core.rl.rewards.mix import Rewards
from dreamlm.core.rl.trainer import PolicyTrainer
from dreamlm.core.training.backend.single import SingleProcess
from dreamlm.core.training.hooks import Hook
from dreamlm.core.training.recorders import MetricsFile
from dreamlm.data_sources.progress import Silence
from dreamlm.presets.resolve import resolve
from dreamlm.wiring.policy import train_policy
from dreamlm.wiring.policy_start import PolicyRequest
from dreamlm.wiring.training import TrainRequest, train

Kill = tuple[str, int, float]
MOMENTS: dict[str, list[tuple[Any, str]]] = {
    "draw": [(rollout, "draw")],
    "score": [(Rewards, "_values")],
    "read": [(Collector, "_opinions")],
    "update": [(SingleProcess, "forward_backward"), (SingleProcess, "update")],
    "commit": [(DiskFiles, name) for name in ("write_file", "sync_file", "sync_folder", "rename", "remove_file")],
    "evaluate": [(PolicyTrainer, "_judge")],
    "tell": [(MetricsFile, "_write")],
}
"""What training a policy is made of, and the functions that are called then."""


def tell_of_moments(pipe: int, kill: Kill | None) -> None:
    """From now on each of these functions writes the first letter of its moment before it runs."""
    came = Counter[str]()

    def telling(function: Callable[..., Any], letter: str) -> Callable[..., Any]:
        def told(*arguments: Any, **options: Any) -> Any:
            came[letter] += 1
            os.write(pipe, letter.encode())
            if kill == (letter, came[letter], 0.0):
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return told

    for moment, functions in MOMENTS.items():
        for owner, name in functions:
            setattr(owner, name, telling(getattr(owner, name), moment[0]))


def obey(origin: Path, run: Path, sets: Sequence[str]) -> None:
    torch.set_num_threads(1)
    try:
        if origin.is_file():
            train(TrainRequest(resolve(origin, sets), run, workers=1), Hook(), Silence())
        else:
            train_policy(PolicyRequest(run, origin, sets=sets), Hook())
    except BaseException as error:  # noqa: BLE001  the status is the answer; the text goes to the test's log
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
        os._exit(1)
    os._exit(0)


def watch(child: int, pipe: int, kill: Kill | None) -> str:
    """The moments that came until the child ended, of itself or by a kill."""
    came = ""
    while letter := os.read(pipe, 1).decode():
        came += letter
        if kill is not None and kill[2] and (letter, came.count(letter)) == kill[:2]:
            time.sleep(kill[2])
            os.kill(child, signal.SIGKILL)
    return came


def serve() -> None:
    for line in sys.stdin:
        origin, run, sets, due = json.loads(line)
        kill = due and (due[0], due[1], due[2])
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            tell_of_moments(writer, kill)
            obey(Path(origin), Path(run), sets)
        os.close(writer)
        came = watch(child, reader, kill)
        _, status = os.waitpid(child, 0)
        os.close(reader)
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        sys.stdout.write(json.dumps(["killed" if killed else str(os.waitstatus_to_exitcode(status)), came]) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
