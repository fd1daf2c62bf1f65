"""Bringing items to their experts and back, so that only the chosen experts compute.

1. the slots (one for each item and choice) are sorted by expert, into one buffer
2. each expert computes its stretch of the buffer, however long it is: no slot is dropped
3. the results go back to their slots and are mixed by the gate's weights

Stretches begin at multiples of `ROWS`, with rows of zeros between them. A product of a few rows takes another path in
BLAS and rounds differently, so without them a token's result would depend on how many others chose its expert.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dreamlm.core.nn.moe.gate import Routing

ROWS = 8
"""Every expert computes a multiple of so many rows."""


@final
class Experts(nn.ModuleList):
    """Experts of any kind, each with weights of its own: any module that maps (n, ...) to (n, ...), n = 0 included.

    Every expert runs, if only on nothing: so all ranks of a divided model fetch and reduce the same weights in the
    same order. One matrix per expert and not a stack of them, because Muon orthogonalises matrices.
    """

    def __init__(self, experts: Iterable[nn.Module], top_k: int) -> None:
        super().__init__(experts)
        self.top_k = top_k

    def forward(self, items: Float[Tensor, "N *W"], routing: Routing) -> Float[Tensor, "N *V"]:
        return dispatch(items, routing, list(self))

    def by_choice(self, items: Float[Tensor, "N *W"], routing: Routing, **given: Any) -> Float[Tensor, "N K *V"]:
        """The results before they are mixed.  given: what every expert gets beside its items."""
        return results_by_choice(items, routing, [partial(expert, **given) for expert in self])

    @property
    def idle_weights(self) -> int:
        """Weights of matrices that an item is *not* multiplied by; experts are of equal size."""
        matrices = sum(parameter.numel() for parameter in self.parameters() if parameter.ndim == 2)
        return matrices // len(self) * (len(self) - self.top_k)


def dispatch(
    items: Float[Tensor, "N *W"], routing: Routing, experts: Sequence[Callable[[Tensor], Tensor]]
) -> Float[Tensor, "N *V"]:
    """The chosen experts' results for each item, mixed by the gate's weights; 0 for an item that is not real.

    Cost: K/E of evaluating all experts, a sort of the N * K choices, and four copies of the K-fold items. With few
    items the rows that fill up stretches count too: of the rows of all four experts two compute about 0.5 for 1,024
    items, 0.7 for 16, as many for 8, and 1.9 times as many for 4.
    """
    return mixed(results_by_choice(items, routing, experts), routing)


def results_by_choice(
    items: Float[Tensor, "N *W"], routing: Routing, experts: Sequence[Callable[[Tensor], Tensor]]
) -> Float[Tensor, "N K *V"]:
    """What each chosen expert makes of each item, in the order of the choices; 0 for an item that is not real."""
    choices = routing.expert_NK.shape[1]
    counts = routing.count_E.tolist()
    sizes = [ROWS * -(-count // ROWS) for count in counts]
    slot_P, row_S = _places(routing.expert_NK, counts, sizes)
    slots = items.repeat_interleave(choices, dim=0)
    stretches = _Move.apply(slots, slot_P, row_S).split(sizes)  # type: ignore[no-untyped-call]
    results = torch.cat([expert(stretch) for expert, stretch in zip(experts, stretches, strict=True)])
    returned: Tensor = _Move.apply(results, row_S, slot_P)  # type: ignore[no-untyped-call]
    return returned.view(-1, choices, *results.shape[1:])


def mixed(results_NK: Float[Tensor, "N K *V"], routing: Routing) -> Float[Tensor, "N *V"]:
    """The results of each item's choices, weighted as the gate says."""
    weights = routing.weight_NK.to(results_NK.dtype)
    weights = weights.view(*weights.shape, *[1] * (results_NK.ndim - 2))
    total = results_NK[:, 0] * weights[:, 0]
    for choice in range(1, results_NK.shape[1]):  # faster than a reduction over so short a dimension
        total = total + results_NK[:, choice] * weights[:, choice]
    return total


def _places(
    expert_NK: Int[Tensor, "N K"], counts: Sequence[int], sizes: Sequence[int]
) -> tuple[Int[Tensor, " P"], Int[Tensor, " S"]]:
    """The slot that each row of the buffer takes, and the row that each slot goes to; -1 where there is none."""
    expert_S = expert_NK.flatten()
    taken_R = expert_S.argsort(stable=True)[: sum(counts)]
    filling = [size - count for size, count in zip(sizes, counts, strict=True)]
    before_E = torch.tensor([0, *filling[:-1]], device=expert_S.device).cumsum(dim=0)
    row_R = torch.arange(len(taken_R), device=expert_S.device) + before_E[expert_S[taken_R]]
    slot_P = expert_S.new_full((sum(sizes),), -1)
    slot_P[row_R] = taken_R
    row_S = torch.full_like(expert_S, -1)
    row_S[taken_R] = row_R
    return slot_P, row_S


@final
class _Move(torch.autograd.Function):
    """source[index], and zeros where the index is -1.

    `inverse` says the same from the source's side, so that backward is a move too; torch's own would add up row by row.
    """

    @staticmethod
    def forward(ctx: Any, source: Tensor, index_X: Tensor, inverse_Y: Tensor) -> Tensor:
        ctx.save_for_backward(inverse_Y)
        return _moved(source, index_X)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        return _moved(grad_outputs[0], *ctx.saved_tensors), None, None


def _moved(source: Tensor, index_X: Tensor) -> Tensor:
    blank = (index_X < 0).nonzero()[:, 0]
    if len(source) == 0:
        return source.new_zeros(len(index_X), *source.shape[1:])
    return source.index_select(0, index_X.clamp(min=0)).index_fill_(0, blank, 0)
