"""Adds up, on the device, what the micro-batches of a step measured; the host asks once, at the end."""

from collections.abc import Callable, Mapping, Sequence
from typing import final

import torch
from torch import Tensor

from dreamlm.core.training.backend.backend import Measured


@final
class Tally:
    """Sums of the negative log-likelihood and the objectives, and means of the probes, in fp64."""

    def __init__(self, device: torch.device, micro_batches: int) -> None:
        """`micro_batches`: how many of all ranks have targets."""
        self._device, self._micro_batches = device, micro_batches
        self._nll = torch.zeros((), dtype=torch.float64, device=device)
        self._objectives: dict[str, Tensor] = {}
        self._probes: dict[str, Tensor] = {}

    def add(self, targets: int, nll: Tensor, objectives: Mapping[str, Tensor], probes: Mapping[str, Tensor]) -> None:
        """One micro-batch: sums over its real targets, and values worth looking at; without targets, their names."""
        counts = float(targets > 0)
        self._nll += nll.detach() * counts
        for name, loss in objectives.items():
            self._objectives[name] = self._objectives.get(name, 0.0) + loss.detach().double() * counts
        for name, value in probes.items():
            share = value.detach().double() * counts / self._micro_batches
            self._probes[name] = self._probes.get(name, 0.0) + share

    def measured(self, tokens: int, sum_over_ranks: Callable[[Sequence[float]], list[float]]) -> Measured:
        """Per real token of the global batch. Collective where `sum_over_ranks` is."""
        values = [self._nll, *self._objectives.values(), *self._probes.values()]
        numbers = iter(sum_over_ranks(torch.cat([value.flatten() for value in values]).tolist()))
        nll = next(numbers) / tokens
        objectives = {name: next(numbers) / tokens for name in self._objectives}
        probes = {name: [next(numbers) for _ in range(value.numel())] for name, value in self._probes.items()}
        return Measured(nll, objectives, tokens, probes)
