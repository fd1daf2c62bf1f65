"""Which parameters got a gradient in a step: all that an optimizer may touch, in one process as in many."""

from collections.abc import Callable, Collection, Sequence
from typing import final

from torch import Tensor, nn

from dreamlm.core.training.optim import NamedParameters


@final
class Reached:
    """Notes the parameters that backward passes reach, whatever becomes of their gradients afterwards."""

    def __init__(self, parameters: NamedParameters) -> None:
        self.passed_over: Collection[Tensor] = ()
        """What the running passes teach nothing, though they bring a gradient to it."""
        self._parameters = [parameter for _, parameter in parameters]
        self._reached: set[Tensor] = set()
        self._hooks = [
            parameter.register_post_accumulate_grad_hook(self._note)  # type: ignore[no-untyped-call]
            for parameter in self._parameters
            if parameter.requires_grad
        ]

    def by_any_rank(self, sum_over_ranks: Callable[[Sequence[float]], list[float]]) -> list[nn.Parameter]:
        """Those that a pass of any rank has reached, in their order. Collective where `sum_over_ranks` is."""
        counts = sum_over_ranks([float(parameter in self._reached) for parameter in self._parameters])
        return [parameter for parameter, count in zip(self._parameters, counts, strict=True) if count]

    def forget(self) -> None:
        self._reached.clear()

    def _note(self, parameter: Tensor) -> None:
        if parameter not in self.passed_over:
            self._reached.add(parameter)
