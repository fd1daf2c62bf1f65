"""The newest few tensors of every row, with the semantics of an immutable value and the cost of writing one.

A push writes behind the newest tensors, into room that nobody sees, of a buffer that older values share; when the room
is used up, the tensors that are still shown move to the beginning of another buffer. A push behind a value that is not
the newest copies first. So every value stays what it was, whoever goes on from it.

Shapes: B rows, R rows pushed to, M tensors shown, C slots of the buffer.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

SPARE = 2
"""Slots of a buffer for each tensor that is shown: the moves then cost one copied tensor a push, at any size."""


class _Buffer:
    """Storage that several rings share; `pushes` is how far any of them has used it."""

    def __init__(self, slots_BC: Tensor, pushes: int) -> None:
        self.slots_BC, self.pushes = slots_BC, pushes


@dataclass(frozen=True)
class Ring:
    """At most `size` tensors for each row: a new one makes a full row forget its oldest.

    Cost of `push`: O(1) whatever the size, on average over pushes; with gradient, a copy.
    """

    size: int
    buffer: _Buffer
    pushes: int
    """How far this value has used the buffer: no row's next slot lies behind it."""
    next_B: Int[Tensor, " B"]
    """The slot of each row's next tensor."""
    count_B: Int[Tensor, " B"]
    """How many tensors of each row are there."""

    @classmethod
    def empty(cls, rows: int, size: int, shape: tuple[int, ...], device: torch.device) -> "Ring":
        nothing_B = torch.zeros(rows, dtype=torch.int64, device=device)
        return cls.of(torch.zeros(rows, size, *shape, device=device), nothing_B)

    @classmethod
    def of(cls, newest_BM: Float[Tensor, "B M *shape"], count_B: Int[Tensor, " B"]) -> "Ring":
        """The ring of the last `count_B` tensors of each row, the newest last."""
        rows, size, *shape = newest_BM.shape
        room = newest_BM.new_zeros(rows, (SPARE - 1) * size, *shape)
        buffer = _Buffer(torch.cat([newest_BM, room], dim=1), size)
        return cls(size, buffer, size, torch.full_like(count_B, size), count_B)

    def ordered(self) -> Float[Tensor, "B M *shape"]:
        """The tensors of each row, the newest last; what stands before the last `count_B` means nothing."""
        steps_M = torch.arange(-self.size, 0, device=self.next_B.device)
        row_B1 = torch.arange(len(self.next_B), device=self.next_B.device)[:, None]
        found: Tensor = self.buffer.slots_BC[row_B1, self.next_B[:, None] + steps_M]
        return found

    def select(self, rows: Int[Tensor, " R"]) -> "Ring":
        """A ring of some rows, in the order asked for."""
        return Ring.of(self.ordered()[rows], self.count_B[rows])

    def emptied(self, where_B: Bool[Tensor, " B"]) -> "Ring":
        """Without the tensors of some rows."""
        return replace(self, count_B=torch.where(where_B, 0, self.count_B))

    def push(self, new_R: Float[Tensor, "R *shape"], row_R: Int[Tensor, " R"], keeps_R: Bool[Tensor, " R"]) -> "Ring":
        """With a new tensor for some rows, each once, where it is kept."""
        if self.pushes != self.buffer.pushes or self.pushes == SPARE * self.size:
            return Ring.of(self.ordered(), self.count_B).push(new_R, row_R, keeps_R)
        slot_R = self.next_B[row_R]
        # What is not kept lies where nobody looks, and the row's next tensor replaces it.
        if torch.is_grad_enabled():
            buffer = _Buffer(self.buffer.slots_BC.index_put((row_R, slot_R), new_R), self.pushes + 1)
        else:
            buffer = self.buffer
            buffer.slots_BC[row_R, slot_R] = new_R
            buffer.pushes += 1
        next_B = self.next_B.index_add(0, row_R, keeps_R.long())
        count_B = self.count_B.index_add(0, row_R, keeps_R.long()).clamp(max=self.size)
        return Ring(self.size, buffer, self.pushes + 1, next_B, count_B)
