"""Roll-outs that were judged, and the micro-batches that training sees of them.

Shapes: N tokens of one answer, or of all answers of a micro-batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor

from dreamlm.core.rl.advantages import Floats
from dreamlm.core.rl.policy import AnswerBatch
from dreamlm.core.rl.rollout import Rollout
from dreamlm.core.training.backend.backend import MicroBatch


@dataclass(frozen=True)
class Experience:
    """One answer with everything an update needs to know about its tokens."""

    rollout: Rollout
    log_probability_N: Floats
    """By the policy that wrote it, from the pass that training differentiates."""
    reference_N: Floats
    """Log-probabilities by the frozen reference, among all tokens."""
    value_N: Floats
    """What the critic expected before each token."""
    advantage_N: Floats
    return_N: Floats


@dataclass(frozen=True)
class Columns:
    """The experience of all tokens of a micro-batch, fp32."""

    log_probability_N: Tensor
    reference_N: Tensor
    advantage_N: Tensor
    return_N: Tensor
    value_N: Tensor

    def to(self, device: torch.device) -> "Columns":
        return Columns(**{name: column.to(device) for name, column in vars(self).items()})


@dataclass(frozen=True)
class ExperienceBatch(MicroBatch):
    """Some experience, laid out for one pass."""

    answers: AnswerBatch
    columns: Columns
    pull: float
    """What the squared distance from the reference costs."""
    seed: int

    @classmethod
    def of(cls, experience: Sequence[Experience], pull: float, seed: int) -> "ExperienceBatch":
        columns = Columns(
            log_probability_N=_column([one.log_probability_N for one in experience]),
            reference_N=_column([one.reference_N for one in experience]),
            advantage_N=_column([one.advantage_N for one in experience]),
            return_N=_column([one.return_N for one in experience]),
            value_N=_column([one.value_N for one in experience]),
        )
        return cls(AnswerBatch.of([one.rollout for one in experience]), columns, pull, seed)

    @property
    def targets(self) -> int:
        return len(self.answers.chosen_N)

    @property
    def length(self) -> int:
        return self.answers.tokens_BT.shape[1]

    def padded(self, length: int) -> Self:
        return replace(self, answers=self.answers.padded(length))

    def inputs(self, device: torch.device) -> tuple[AnswerBatch, Columns, float]:
        return self.answers.to(device), self.columns.to(device), self.pull


def _column(parts: Sequence[Floats]) -> Tensor:
    return torch.from_numpy(np.concatenate(parts).astype(np.float32))
