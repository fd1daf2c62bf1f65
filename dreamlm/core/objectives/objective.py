"""What is minimised: the contract between an objective and the backend that trains by it."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Int
from torch import Tensor, nn

from dreamlm.core.nn.decoder import DreamLM


@dataclass(frozen=True)
class Losses:
    """What one forward pass over a micro-batch measured; all sums over its real targets."""

    objectives: dict[str, Tensor]
    """Differentiable, unweighted, by name; a token that a loss does not concern adds nothing to it."""
    nll: Tensor
    """Negative log-likelihood in nats: unsmoothed, no auxiliaries, detached."""
    tokens: Tensor
    """How many real targets there were."""
    probes: Mapping[str, Tensor] = field(default_factory=dict)
    """Detached values that the model's parts show, by name."""


def over_targets(
    losses: Mapping[str, Tensor], documents_BT: Int[Tensor, "B T"], targets: int | Tensor
) -> dict[str, Tensor]:
    """What a model's parts add to the loss, as sums over targets: they add it up over all that they read.

    That is more than the targets where there are places of pictures, prompts, or the rest of a block.
    """
    share = targets / (documents_BT >= 0).sum().clamp(min=1)
    return {name: loss * share for name, loss in losses.items()}


HEADS = "heads."
"""How the names of parameters begin that are trained beside a model and are no part of it, such as a value head's."""


class Objective(nn.Module, ABC):
    """A model, what is trained beside it, and the losses of a micro-batch."""

    model: DreamLM

    def trained(self) -> list[tuple[str, nn.Parameter]]:
        """Every parameter to train, by its name in a snapshot: the model's by their own, others as HEADS."""
        return list(self.model.named_parameters())

    @abstractmethod
    def forward(self, *inputs: Any) -> Losses:
        """The losses of a micro-batch, whose `inputs` they are."""
