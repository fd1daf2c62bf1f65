"""`python cramped_ranks.py STEP ROWS train ...`: the command line on ranks of which the second has little memory.

From attempt STEP of each start on, a micro-batch of more than ROWS rows does not fit. The same for `rl reward ...`,
where a pair is two rows.
"""

import os
import sys
from collections.abc import Sequence
from typing import Any

import torch

from dreamlm.cli.app import run
from dreamlm.core.objectives.objective import Objective
from dreamlm.core.training.backend import launch as launching
from dreamlm.core.training.backend.backend import Backend
from dreamlm.wiring import reward_training, training

STEP, ROWS, *ARGUMENTS = sys.argv[1:]
BUILDER: Any = {"train": training, "rl": reward_training}[ARGUMENTS[0]]


def cramp(objective: Objective) -> None:
    seen: list[int] = []

    def look(module: object, inputs: tuple[Any, ...]) -> None:
        seen.append(len(getattr(inputs[0], "tokens_BT", inputs[0])))
        if len(seen) >= int(STEP) and seen[-1] > int(ROWS):
            raise torch.OutOfMemoryError("CUDA out of memory")

    objective.register_forward_pre_hook(look)


def launch_this_script(command: Sequence[str], *arguments: Any, **options: Any) -> launching.Ended:
    ours = [sys.executable, __file__, STEP, ROWS, *command[command.index(ARGUMENTS[0]) :]]
    return whole_launch(ours, *arguments, **options)


def build_cramped(config: Any, objective: Objective, *arguments: Any) -> Backend:
    cramp(objective)
    return build_backend(config, objective, *arguments)


if __name__ == "__main__":
    torch.set_num_threads(1)
    whole_launch, build_backend = launching.launch, BUILDER.build_backend
    if "RANK" not in os.environ:
        launching.launch = launch_this_script
    elif os.environ["RANK"] == "1":
        BUILDER.build_backend = build_cramped
    sys.exit(run(ARGUMENTS))
