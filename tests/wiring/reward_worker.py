"""Trains a reward model in a process of its own, which a test kills.  Arguments: origin, run, preset file."""

import sys
from pathlib import Path

import torch

from dreamlm.core.training.hooks import Hook, StepReport
from dreamlm.presets.resolve import resolve
from dreamlm.wiring.reward_start import RewardRequest
from dreamlm.wiring.reward_training import train_reward


class Teller(Hook):
    """Prints every step, so that the test knows when to kill."""

    def on_step(self, report: StepReport) -> None:
        sys.stdout.write(f"{report.step}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    torch.set_num_threads(1)
    origin, run, preset = sys.argv[1:]
    train_reward(RewardRequest(Path(origin), Path(run), resolve(preset)), Teller())
