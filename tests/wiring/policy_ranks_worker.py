"""One of the ranks that test_policy_ranks.py starts: `python policy_ranks_worker.py FOLDER`.

FOLDER/orders.json lists the policies to train, one after the other: [name, run, settings, fault]. FOLDER has the run,
and a fault is "", or what goes wrong on the second rank from the third time on that answers are written: see `FAULTS`.
Each rank leaves FOLDER/rankN.json: the error that ended each of them, or null.
"""

import json
import math
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from dreamlm.core.errors import DreamLMError
from dreamlm.core.objectives.ppo import PolicyObjective
from dreamlm.core.rl import collect
from dreamlm.core.rl.rewards import mix
from dreamlm.core.training.backend import process_group
from dreamlm.core.training.backend.launch import end_rank
from dreamlm.core.training.backend.process_group import Place
from dreamlm.core.training.hooks import Hook
from dreamlm.wiring.policy import train_policy
from dreamlm.wiring.policy_start import PolicyRequest

PLACE = Place.from_environment()
WRITTEN_WELL = 2
"""Before the first iteration, and in it."""


class Writings:
    """How often answers were written, and what happens from the third time on."""

    def __init__(self, model_breaks: bool) -> None:
        self.count, self._model_breaks = 0, model_breaks

    @property
    def broken(self) -> bool:
        return self.count > WRITTEN_WELL

    def roll_out(self, model: Any, *rest: Any) -> Any:
        self.count += 1
        if self.broken and self._model_breaks:
            with torch.no_grad():
                model.norm.weight.fill_(math.nan)
        return write(model, *rest)


write, measure, policy_loss = collect.roll_out, mix.creativity, PolicyObjective._policy_loss


def reward(writings: Writings) -> AbstractContextManager[Any]:
    """A component of the reward is not a number."""

    def creativity(answers: Sequence[Any], **options: Any) -> Sequence[float | None]:
        return [math.nan if writings.broken else value for value in measure(answers, **options)]

    return mock.patch.object(mix, "creativity", creativity)


def loss(writings: Writings) -> AbstractContextManager[Any]:
    """The loss is infinite."""

    def broken(self: PolicyObjective, *given: Tensor) -> Tensor:
        return policy_loss(self, *given) + (math.inf if writings.broken else 0.0)

    return mock.patch.object(PolicyObjective, "_policy_loss", broken)


def gradient(writings: Writings) -> AbstractContextManager[Any]:
    """The loss is finite, its gradient is not."""

    def broken(self: PolicyObjective, *given: Tensor) -> Tensor:
        found = policy_loss(self, *given)
        if writings.broken and found.requires_grad:
            found.register_hook(lambda grad: grad * math.nan)
        return found

    return mock.patch.object(PolicyObjective, "_policy_loss", broken)


FAULTS: dict[str, Callable[[Writings], AbstractContextManager[Any]]] = {
    "": lambda writings: nullcontext(),
    "logits": lambda writings: nullcontext(),  # by `Writings`: the second rank's weights are not numbers
    "reward": reward,
    "loss": loss,
    "gradient": gradient,
}


def ended(folder: Path, name: str, run: str, sets: Sequence[str], fault: str) -> list[str] | None:
    mine = fault if PLACE.rank == 1 else ""
    writings = Writings(mine == "logits")
    with mock.patch.object(collect, "roll_out", writings.roll_out), FAULTS[mine](writings):
        try:
            train_policy(PolicyRequest(folder / name, folder / run, sets=sets), Hook())
        except DreamLMError as error:
            return [type(error).__name__, error.what]
    return None


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    process_group.join(PLACE, torch.device("cpu"))
    orders = json.loads((folder / "orders.json").read_text())
    with mock.patch.object(process_group, "leave"):  # the ranks stay together until the last run has ended
        ends = {name: ended(folder, name, *order) for name, *order in orders}
    (folder / f"rank{PLACE.rank}.json").write_text(json.dumps(ends))
    process_group.leave()
    end_rank(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
