"""Bringing items to their experts and back, so that only the chosen experts compute.

1. the slots (one for each item and choice) are sorted by expert, into one buffer
2. each expert computes its stretch of the buffer, however long it is: no slot is dropped
3. the results go back to their slots and are mixed by the gate's weights

Stretches begin at multiples of `ROWS`, with rows of zeros between them. A product of a few rows takes another path in
BLAS and rounds differently, so without them a token's result would depend on how many others chose its expert.
"""

from collections.abc import Callable, Iterable, Sequence
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

    @property
    def idle_weights(self) -> float:
        """Weights of matrices that an item is *not* multiplied by."""
        matrices = sum(parameter.numel() for parameter in self.parameters() if parameter.ndim == 2)
        return matrices * (1 - self.top_k / len(self))


def dispatch(
    items: Float[Tensor, "N *W"], routing: Routing, experts: Sequence[Callable[[Tensor], Tensor]]
) -> Float[Tensor, "N *V"]:
    """The chosen experts' results for each item, mixed by the gate's weights; 0 for an item that is not real.

    Cost: K/E of evaluating all experts, a sort of the N * K choices, and four copies of the K-fold items.
    """
    choices = routing.expert_NK.shape[1]
    counts = routing.count_E.tolist()
    sizes = [ROWS * -(-count // ROWS) for count in counts]
    slot_R, row_R = _places(routing.expert_NK, counts, sizes)
    slots = items.repeat_interleave(choices, dim=0)
    stretches = _Move.apply(slots, slot_R, row_R, sum(sizes)).split(sizes)  # type: ignore[no-untyped-call]
    results = torch.cat([expert(stretch) for expert, stretch in zip(experts, stretches, strict=True)])
    returned: Tensor = _Move.apply(results, row_R, slot_R, len(slots))  # type: ignore[no-untyped-call]
    by_choice = returned.unflatten(0, (-1, choices))
    weights = routing.weight_NK.to(by_choice.dtype).view(-1, choices, *[1] * (by_choice.ndim - 2))
    return (by_choice * weights).sum(dim=1)


def _places(
    expert_NK: Int[Tensor, "N K"], counts: Sequence[int], sizes: Sequence[int]
) -> tuple[Int[Tensor, " R"], Int[Tensor, " R"]]:
    """The slots of real items in the order of their experts, and the row of the buffer where each goes."""
    slot_R = expert_NK.flatten().argsort(stable=True)[: sum(counts)]
    # How many rows of zeros lie before each expert's stretch.
    gaps = torch.tensor([0, *(size - count for size, count in zip(sizes, counts, strict=True))])[:-1].cumsum(0)
    gap_E = gaps.to(slot_R.device)
    row_R = torch.arange(len(slot_R), device=slot_R.device) + gap_E[expert_NK.flatten()[slot_R]]
    return slot_R, row_R


@final
class _Move(torch.autograd.Function):
    """target[destination] = source[origin], zeros elsewhere, for indices without repetition.

    Backward is the move in the other direction; torch's own indexing would add up, row after row.
    """

    @staticmethod
    def forward(ctx: Any, source: Tensor, origin_R: Tensor, destination_R: Tensor, size: int) -> Tensor:
        ctx.save_for_backward(origin_R, destination_R)
        ctx.source_size = len(source)
        return _moved(source, origin_R, destination_R, size)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        origin_R, destination_R = ctx.saved_tensors
        return _moved(grad_outputs[0], destination_R, origin_R, ctx.source_size), None, None, None


def _moved(source: Tensor, origin_R: Tensor, destination_R: Tensor, size: int) -> Tensor:
    target = source.new_zeros(size, *source.shape[1:])
    target[destination_R] = source[origin_R]
    return target
