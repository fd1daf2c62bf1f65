"""One process, plain PyTorch: fp32 weights, autocast to bf16 where asked."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from dreamlm.core.objectives.objective import Objective
from dreamlm.core.training.backend.backend import (
    Backend,
    Measured,
    MicroBatch,
    Tensors,
    Update,
)
from dreamlm.core.training.backend.tally import Tally
from dreamlm.core.training.optim import OptimizerConfig


class SingleProcess(Backend):
    """The reference backend: every other one must agree with it."""

    can_repeat = True

    def __init__(
        self,
        objective: Objective,
        optimizer: OptimizerConfig,
        loss_weights: Mapping[str, float],
        max_grad_norm: float,
        precision: str,
        compile: bool,
    ) -> None:
        self.rank, self.world_size = 0, 1
        self.precision = precision
        self.device = objective.model.device
        self.objective = objective
        self._parameters = objective.trained()
        self._optimizers = optimizer.build(self._parameters)
        self._loss_weights = loss_weights
        self._factors: Mapping[str, float] = {}
        self._max_grad_norm = max_grad_norm
        self._forward: nn.Module = torch.compile(objective) if compile else objective  # type: ignore[assignment]

    def whole(self) -> AbstractContextManager[None]:
        return nullcontext()

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def weigh(self, factors: Mapping[str, float]) -> None:
        self._factors = factors

    def forward_backward(self, micro_batches: Sequence[MicroBatch]) -> Measured:
        counting = [(micro, targets) for micro in micro_batches if (targets := micro.targets)]
        total = sum(targets for _, targets in counting)
        tally = Tally(self.device, len(counting))
        for micro, targets in counting:
            torch.manual_seed(micro.seed)
            with self.autocast():
                losses = self._forward(*micro.inputs(self.device))
            weighted = sum(self._weight(name) * loss for name, loss in losses.objectives.items())
            (weighted / total).backward()
            tally.add(targets, losses.nll, losses.objectives, losses.probes)
        return tally.measured(total, self.sum)

    def _weight(self, name: str) -> float:
        return self._loss_weights[name] * self._factors.get(name, 1.0)

    def update(self, factor: float) -> Update:
        norm = nn.utils.get_total_norm([p.grad for _, p in self._parameters if p.grad is not None])
        gradient_norm = norm.item()
        applied = torch.isfinite(norm).item() is True
        if applied:
            nn.utils.clip_grads_with_norm_([p for _, p in self._parameters], self._max_grad_norm, norm)
            self._optimizers.step(factor)
        self._optimizers.zero_grad()
        learning_rate = next(iter(self._optimizers.groups()))["initial_lr"] * factor
        return Update(gradient_norm, learning_rate, applied)

    def discard(self) -> None:
        self._optimizers.zero_grad()

    def gather(self) -> Tensors:
        return Tensors(
            {name: parameter.detach().cpu() for name, parameter in self._parameters},
            {name: value.detach().cpu() for name, value in self._optimizers.state().items()},
        )

    def restore(self, tensors: Tensors) -> None:
        with torch.no_grad():
            for name, parameter in self._parameters:
                parameter.copy_(tensors.model[name])
        self._optimizers.restore(tensors.optimizer)

    def lengths_in_step(self, lengths: Sequence[int]) -> Sequence[int]:
        return lengths

    def any(self, flag: bool) -> bool:
        return flag

    def sum(self, values: Sequence[float]) -> list[float]:
        return list(values)

    def first(self, text: str) -> str:
        return text

    def close(self) -> None:
        """Nothing to leave."""
