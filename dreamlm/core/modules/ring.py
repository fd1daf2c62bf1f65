"""The newest few tensors of every row, with the semantics of an immutable value and the cost of writing one.

A push writes over the oldest slots of a ring buffer that older values share, as long as none of them is still in use
and would see it; else it copies first. So every value stays what it was for as long as somebody holds it, and where
each value replaces the one before, as in generation, nothing is ever copied.

Shapes: B rows, R rows pushed to, M tensors shown, C slots of the buffer.
"""

from dataclasses import dataclass, replace
from weakref import WeakSet

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dreamlm.core.nn.cache import writable

SPARE = 4
"""Slots beyond those that a value shows: so many newer values may exist beside it before a push has to copy."""


class _Buffer:
    """Storage that several rings share."""

    def __init__(self, slots_BC: Tensor) -> None:
        self.slots_BC = slots_BC
        self.pushes = 0
        """How often any of them was pushed to."""
        self.users: WeakSet[Ring] = WeakSet()
        """The rings that somebody still holds."""


@dataclass(frozen=True, eq=False)
class Ring:
    """At most `size` tensors for each row: a new one makes a full row forget its oldest.

    Cost of `push`: O(1) whatever the size; a copy with gradient, behind a value that is not the newest, where an old
    value is still held, or where inference mode has ended.
    """

    size: int
    buffer: _Buffer
    pushes: int
    """How often this value was pushed to."""
    next_B: Int[Tensor, " B"]
    """Number of each row's next tensor; its slot is that, modulo the buffer's."""
    count_B: Int[Tensor, " B"]
    """How many tensors of each row are there."""

    def __post_init__(self) -> None:
        self.buffer.users.add(self)

    @classmethod
    def empty(cls, rows: int, size: int, shape: tuple[int, ...], device: torch.device) -> "Ring":
        nothing_B = torch.zeros(rows, dtype=torch.int64, device=device)
        return cls.of(torch.zeros(rows, size, *shape, device=device), nothing_B)

    @classmethod
    def of(cls, newest_BM: Float[Tensor, "B M *shape"], count_B: Int[Tensor, " B"]) -> "Ring":
        """The ring of the last `count_B` tensors of each row, the newest last."""
        rows, size, *shape = newest_BM.shape
        buffer = _Buffer(torch.cat([newest_BM, newest_BM.new_zeros(rows, SPARE, *shape)], dim=1))
        return cls(size, buffer, 0, torch.full_like(count_B, size), count_B)

    def ordered(self) -> Float[Tensor, "B M *shape"]:
        """The tensors of each row, the newest last; what stands before the last `count_B` means nothing."""
        steps_M = torch.arange(-self.size, 0, device=self.next_B.device)
        row_B1 = torch.arange(len(self.next_B), device=self.next_B.device)[:, None]
        slots_BC = self.buffer.slots_BC
        found: Tensor = slots_BC[row_B1, (self.next_B[:, None] + steps_M) % slots_BC.shape[1]]
        return found

    def select(self, rows: Int[Tensor, " R"]) -> "Ring":
        """A ring of some rows, in the order asked for."""
        return Ring.of(self.ordered()[rows], self.count_B[rows])

    def emptied(self, where_B: Bool[Tensor, " B"]) -> "Ring":
        """Without the tensors of some rows."""
        return replace(self, count_B=torch.where(where_B, 0, self.count_B))

    def push(self, new_R: Float[Tensor, "R *shape"], row_R: Int[Tensor, " R"], keeps_R: Bool[Tensor, " R"]) -> "Ring":
        """With a new tensor for some rows, each once, where it is kept; in the ring's own precision."""
        new_R = new_R.to(self.buffer.slots_BC.dtype)
        if torch.is_grad_enabled():
            return self._following(_Buffer(self._with(new_R, row_R)), row_R, keeps_R)
        if self._is_seen() or not writable(self.buffer.slots_BC):
            return Ring.of(self.ordered(), self.count_B).push(new_R, row_R, keeps_R)
        self.buffer.slots_BC[row_R, self._slots(row_R)] = new_R
        self.buffer.pushes += 1
        return self._following(self.buffer, row_R, keeps_R)

    def _is_seen(self) -> bool:
        """Whether writing the next tensors would change what a ring that somebody holds shows."""
        return self.buffer.pushes != self.pushes or any(
            self.pushes - user.pushes >= SPARE for user in self.buffer.users
        )

    def _with(self, new_R: Tensor, row_R: Tensor) -> Tensor:
        return self.buffer.slots_BC.index_put((row_R, self._slots(row_R)), new_R)

    def _slots(self, row_R: Tensor) -> Tensor:
        # What is not kept lies where nobody looks, and the row's next tensor replaces it.
        return self.next_B[row_R] % self.buffer.slots_BC.shape[1]

    def _following(self, buffer: _Buffer, row_R: Tensor, keeps_R: Tensor) -> "Ring":
        next_B = self.next_B.index_add(0, row_R, keeps_R.long())
        count_B = self.count_B.index_add(0, row_R, keeps_R.long()).clamp(max=self.size)
        return Ring(self.size, buffer, buffer.pushes, next_B, count_B)
