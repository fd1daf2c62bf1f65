"""What is added to the stacks of a module while it reads them.

Shapes: B rows, M tensors of a stack.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor


class Noise(ABC):
    """Belongs to the rows of a state, and stays what it is however often it is added."""

    @abstractmethod
    def on(self, stack_BM: Float[Tensor, "B M *shape"]) -> Float[Tensor, "B M *shape"]:
        """The stack as it is read."""

    @abstractmethod
    def select(self, rows: Int[Tensor, " R"]) -> "Noise":
        """That of some rows, in the order asked for."""


@final
class NoNoise(Noise):
    """Everything is read as it was written; draws no random number."""

    def on(self, stack_BM: Float[Tensor, "B M *shape"]) -> Float[Tensor, "B M *shape"]:
        return stack_BM

    def select(self, rows: Int[Tensor, " R"]) -> Noise:
        return self


@final
@dataclass(frozen=True)
class RowNoise(Noise):
    """Gaussian, drawn anew from torch's global generator at every reading."""

    deviation_B: Float[Tensor, " B"]

    def on(self, stack_BM: Float[Tensor, "B M *shape"]) -> Float[Tensor, "B M *shape"]:
        deviation_BM = self.deviation_B.view(-1, *[1] * (stack_BM.ndim - 1))
        return stack_BM + torch.randn_like(stack_BM) * deviation_BM

    def select(self, rows: Int[Tensor, " R"]) -> Noise:
        return RowNoise(self.deviation_B[rows])
