"""AdamW on the pieces of parameters that a rank holds under DeepSpeed: on each what torch's AdamW does on the whole.

DeepSpeed lays the pieces of a parameter group behind one another into one vector, and asks for a step of the vector. A
torch optimizer would then let all of it decay and count one step for all of it, also for weights that no gradient came
to: those of a module, say, that no text of the step was long enough for.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, distributed, nn
from torch.optim.adamw import adamw

MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Piece:
    """`size` numbers of the flattened parameter from `begin` on, which stand in `vector` from `place` on."""

    vector: Tensor
    place: int
    begin: int
    size: int

    def within(self, vector: Tensor) -> Tensor:
        """Its part of something as long as `vector`; no copy."""
        return vector.narrow(0, self.place, self.size)

    def cut(self, whole: Tensor) -> Tensor:
        """Its part of something with the parameter's shape."""
        return whole.flatten().narrow(0, self.begin, self.size).to(self.vector.device, torch.float32, copy=True)

    def gather(self, part: Tensor, shape: torch.Size) -> Tensor:
        """The whole of which every rank holds a part like this. Collective."""
        whole = torch.zeros(shape, dtype=part.dtype, device=part.device)
        whole.view(-1).narrow(0, self.begin, self.size).copy_(part)
        distributed.all_reduce(whole)
        return whole


@final
class PiecewiseAdamW(torch.optim.Optimizer):
    """Steps the pieces of `moving` parameters and touches no others.

    `state` knows a parameter from its first step on, on every rank, by the names that `torch.optim.AdamW` has; the
    moments are those of the piece.
    """

    def __init__(self, whole: torch.optim.AdamW) -> None:
        """`whole`: what would be used in one process; only its groups are."""
        super().__init__([{**group} for group in whole.param_groups], {})
        self.pieces: Mapping[nn.Parameter, Piece] = {}
        """Of all that learn; to be set once DeepSpeed has divided them."""
        self.moving: Collection[nn.Parameter] = ()

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """DeepSpeed has replaced a group's parameters by their vector, and may ask for one group at a time."""
        for group in self.param_groups:
            for vector in group["params"]:
                self._step_vector(vector, group)

    def _step_vector(self, vector: Tensor, group: Mapping[str, Any]) -> None:
        moving = [one for one in self.moving if self.pieces[one].vector is vector]
        if not moving:
            return
        pieces = [self.pieces[parameter] for parameter in moving]
        for parameter in moving:
            self.state[parameter] = self.state[parameter] or self._fresh(parameter)
        states = [self.state[parameter] for parameter in moving]
        adamw(
            [piece.within(vector) for piece in pieces],
            [piece.within(vector.grad) for piece in pieces],  # type: ignore[arg-type]
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=True,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )

    def _fresh(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        piece = self.pieces[parameter]
        nothing = torch.zeros((), dtype=torch.float32, device=piece.vector.device)
        moments = {key: torch.zeros_like(piece.within(piece.vector.detach())) for key in MOMENTS}
        return {"step": nothing, **moments}
