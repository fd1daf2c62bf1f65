"""One of the ranks that test_multimodal_ranks.py starts: `python picture_ranks_worker.py FOLDER`.

FOLDER/orders.json lists the runs to train one after the other: [run, settings, step], where the step is null, or that
behind which the run is asked to stop.
"""

import json
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from unittest import mock

import torch

from dreamlm.core.errors import Interrupted
from dreamlm.core.training.backend import process_group
from dreamlm.core.training.backend.launch import end_rank
from dreamlm.core.training.backend.process_group import Place
from dreamlm.core.training.hooks import Hook, StepReport
from dreamlm.data_sources.progress import Silence
from dreamlm.presets.resolve import resolve
from dreamlm.wiring.training import TrainRequest, train


class Stopper(Hook):
    """Asks for an end behind a step, on the first rank: no other has hooks."""

    def __init__(self, step: int | None) -> None:
        self._step = step

    def on_step(self, report: StepReport) -> None:
        if report.step == self._step:
            os.kill(os.getpid(), signal.SIGINT)


def run(folder: Path, name: str, sets: Sequence[str], step: int | None) -> None:
    request = TrainRequest(resolve(folder / "seeing.json", sets), folder / name, workers=1)
    with suppress(Interrupted) if step else nullcontext():
        train(request, Stopper(step), Silence())


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    process_group.join(Place.from_environment(), torch.device("cpu"))
    with mock.patch.object(process_group, "leave"):  # the ranks stay together until the last run has ended
        for name, sets, step in json.loads((folder / "orders.json").read_text()):
            run(folder, name, sets, step)
    process_group.leave()
    end_rank(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
