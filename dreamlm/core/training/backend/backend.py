"""The interface between the loop, which knows what a step is, and the machinery that computes it.

Tensors go in and out by parameter name, in full: a snapshot depends neither on the backend nor on the world size.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.nn.vision.view import sight_of
from dreamlm.core.objectives.objective import Objective
from dreamlm.core.types import Batch, ImageForm, Pictures


class MicroBatch(ABC):
    """What one forward and backward pass of a rank is over."""

    seed: int
    """Decides its dropout, by the step and its place in the global batch."""

    @property
    @abstractmethod
    def targets(self) -> int:
        """How many targets its losses are sums over, counted on the host.

        One without any teaches nothing and shows nothing: it is passed through where ranks must pass equally many.
        """

    @property
    @abstractmethod
    def length(self) -> int:
        """Tokens of its longest row."""

    @abstractmethod
    def padded(self, length: int) -> Self:
        """The same, at the same loss, with padding on the right up to a length no smaller than its own."""

    @property
    def has_picture(self) -> bool:
        """Whether there is anything to be seen."""
        return False

    def with_picture(self, form: ImageForm) -> Self:
        """The same for a model that takes pictures in that form, with one at least; nobody looks at what is added."""
        return self

    @abstractmethod
    def inputs(self, device: torch.device) -> tuple[Any, ...]:
        """What the objective's forward pass takes."""


@dataclass(frozen=True)
class WindowBatch(MicroBatch):
    """Windows of a corpus, for an objective over text."""

    batch: Batch
    seed: int

    @property
    def targets(self) -> int:
        return real_targets(self.batch)

    @property
    def length(self) -> int:
        return int(self.batch.tokens.shape[1]) - 1

    def padded(self, length: int) -> Self:
        room = ((0, 0), (0, length - self.length))
        tokens, documents = np.pad(self.batch.tokens, room), np.pad(self.batch.documents, room, constant_values=-1)
        pictures = self.batch.pictures
        if pictures is not None:
            pictures = replace(pictures, of=np.pad(pictures.of, room, constant_values=-1))
        return replace(self, batch=replace(self.batch, tokens=tokens, documents=documents, pictures=pictures))

    @property
    def has_picture(self) -> bool:
        return self.batch.pictures is not None

    def with_picture(self, form: ImageForm) -> Self:
        if self.has_picture:
            return self
        nowhere = np.full(self.batch.tokens.shape, -1, dtype=np.int32)
        pictures = Pictures(np.zeros((1, 3, form.size, form.size), dtype=np.uint8), nowhere)
        return replace(self, batch=replace(self.batch, pictures=pictures))

    def inputs(self, device: torch.device) -> tuple[Any, ...]:
        sight = sight_of(self.batch, device)
        return on_device(self.batch, device) if sight is None else (*on_device(self.batch, device), sight)


@dataclass(frozen=True)
class Measured:
    """What forward and backward of one step measured, over all micro-batches of all ranks, in nats per real token."""

    nll: float
    objectives: Mapping[str, float]
    tokens: int
    probes: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Values that the model's parts show, means over the micro-batches of all ranks that have targets, flat."""


@dataclass(frozen=True)
class Update:
    """What became of the gradients."""

    gradient_norm: float
    """Before clipping."""
    learning_rate: float
    """Of the first parameter group, as the optimizer used it."""
    applied: bool
    """False when the gradients were not finite: then nothing changed, neither weights nor optimizer."""


@dataclass(frozen=True)
class Tensors:
    """Full tensors by name: weights, and optimizer state as `parameter/state`. Empty on every rank but the first."""

    model: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]


class Backend(ABC):
    """Computes steps. Collective methods must be called by every rank, in the same order."""

    rank: int
    world_size: int
    device: torch.device
    precision: str
    """`bf16` or `fp32`."""
    can_repeat: ClassVar[bool]
    """Whether `discard` makes up for a `forward_backward` that failed: ranks that waited for this one cannot go on."""

    objective: Objective
    """What it trains by."""

    @property
    def model(self) -> DreamLM:
        """The live model. Its weights may be divided among ranks: look at them, or run it, inside `whole()`."""
        return self.objective.model

    @abstractmethod
    def whole(self) -> AbstractContextManager[None]:
        """The context in which every rank holds every weight, for evaluation, samples and a look at the weights.

        Collective to enter and to leave; inside, forward passes concern this rank alone, and weights stay as they are.
        """

    @abstractmethod
    def weigh(self, factors: Mapping[str, float]) -> None:
        """Multiply the weights of these losses, by name, from now on; a loss that is not named has its own weight."""

    @abstractmethod
    def forward_backward(self, micro_batches: Sequence[MicroBatch]) -> Measured:
        """Gradient of the weighted objectives per real token of the global batch. Collective."""

    @abstractmethod
    def lengths_in_step(self, lengths: Sequence[int]) -> Sequence[int]:
        """To what lengths `forward_backward` pads the micro-batches of a step, given their own. Collective."""

    @abstractmethod
    def update(self, factor: float) -> Update:
        """Clip, then step with `factor` times each base learning rate, then forget the gradients. Collective."""

    @abstractmethod
    def discard(self) -> None:
        """Forget the gradients without a step."""

    @abstractmethod
    def autocast(self) -> "torch.autocast":
        """The context in which forward passes outside of `forward_backward` compute as training does."""

    @abstractmethod
    def gather(self) -> Tensors:
        """Weights and optimizer state on the CPU of rank 0. Collective."""

    @abstractmethod
    def restore(self, tensors: Tensors) -> None:
        """Take over weights and optimizer state; every rank passes the full tensors. Collective."""

    @abstractmethod
    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank. Collective."""

    @abstractmethod
    def sum(self, values: Sequence[float]) -> list[float]:
        """Sums over the ranks, in fp64. Collective."""

    @abstractmethod
    def first(self, text: str) -> str:
        """The first text, by rank, that is not empty; empty when all are. Collective."""

    @abstractmethod
    def close(self) -> None:
        """Leave the process group, if there is one."""


def on_device(batch: Batch, device: torch.device) -> tuple[Tensor, Tensor, bool]:
    """Tokens, documents (both int64 and int32 on the device), and whether rows hold boundaries or padding."""
    tokens, documents = torch.from_numpy(batch.tokens), torch.from_numpy(batch.documents)
    if device.type == "cuda":
        tokens, documents = tokens.pin_memory(), documents.pin_memory()
    boundaries = bool(batch.documents.any())
    return tokens.to(device, non_blocking=True), documents.to(device, non_blocking=True), boundaries


def real_targets(batch: Batch) -> int:
    """How many targets of the batch are real, counted on the host: neither padding, nor behind it, nor of a picture."""
    real = (batch.documents[:, 1:] >= 0) & (batch.documents[:, :-1] >= 0) & (batch.tokens[:, 1:] >= 0)
    return int(real.sum())
