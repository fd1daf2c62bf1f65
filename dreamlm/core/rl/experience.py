"""Roll-outs that were judged, and the micro-batches that training sees of them.

Shapes: N tokens of one answer, or of all answers of a micro-batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dreamlm.core.rl.advantages import Floats
from dreamlm.core.rl.policy import Reading
from dreamlm.core.rl.rollout import Rollout
from dreamlm.core.training.backend.backend import MicroBatch


@dataclass(frozen=True)
class Experience:
    """One answer with everything an update needs to know about its tokens."""

    rollout: Rollout
    log_probability_N: Floats
    """By the policy that wrote it, from the pass that training differentiates."""
    value_N: Floats
    """What the critic expected before each token."""
    reward_N: Floats
    """What each token earned: the pull towards the reference, and behind the last token the score."""
    advantage_N: Floats
    return_N: Floats


@dataclass(frozen=True)
class ExperienceBatch(MicroBatch):
    """Some experience, laid out for one pass."""

    reading: Reading
    columns: tuple[Tensor, Tensor, Tensor, Tensor]
    """Log-probabilities, advantages, returns and values by token, fp32."""
    seed: int

    @classmethod
    def of(cls, experience: Sequence[Experience], seed: int) -> "ExperienceBatch":
        return cls(
            Reading.of([one.rollout for one in experience]),
            (
                _column([one.log_probability_N for one in experience]),
                _column([one.advantage_N for one in experience]),
                _column([one.return_N for one in experience]),
                _column([one.value_N for one in experience]),
            ),
            seed,
        )

    @property
    def targets(self) -> int:
        return len(self.reading.chosen_N)

    def inputs(self, device: torch.device) -> tuple[Reading, Tensor, Tensor, Tensor, Tensor]:
        log_probability_N, advantage_N, return_N, value_N = (column.to(device) for column in self.columns)
        return self.reading.to(device), log_probability_N, advantage_N, return_N, value_N


def _column(parts: Sequence[Floats]) -> Tensor:
    return torch.from_numpy(np.concatenate(parts).astype(np.float32))
