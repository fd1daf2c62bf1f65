"""Roles become dreams: each dream is dreamt by a few experts of many, who first hear what the others dream."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from dreamlm.core.modules.dreaming.attention import SelfAttention
from dreamlm.core.nn.moe.dispatch import Experts, mixed
from dreamlm.core.nn.moe.gate import NoisyTopKGate, Routing
from dreamlm.core.nn.norm import RMSNorm
from dreamlm.core.roles import ROLES


@final
@dataclass(frozen=True)
class Dreams:
    """The dreams of every row, and who dreamt them."""

    steps_RNL3C: Float[Tensor, "R N L 3 C"]
    routing: Routing
    """Of the items R * N, those of a row behind one another."""

    @property
    def gate_RNE(self) -> Float[Tensor, "R N E"]:
        """What each expert's dream weighs; 0 where it was not chosen, or the row is not real."""
        rows, dreams = self.steps_RNL3C.shape[:2]
        weight_NK, num_experts = self.routing.weight_NK, len(self.routing.count_E)
        gate_NE = weight_NK.new_zeros(rows * dreams, num_experts + 1).scatter(1, self.routing.expert_NK, weight_NK)
        return gate_NE[:, :num_experts].view(rows, dreams, num_experts)


@final
class DreamGenerator(nn.Module):
    """Each dream begins as the roles moved by an offset of its own; a gate, or its turn, says which experts unfold it.

    Roles and offsets are normalised apart, because offsets that are small beside the roles make all dreams one.

    Cost: O(R N K * (layers * L * C^2 + L^2 * C)) in the experts, of which only the chosen compute, and
    O(R L N K * (C^2 + N K * C)) between them.
    """

    def __init__(
        self,
        size: int,
        max_dreams: int,
        gate: "NoisyTopKGate | Turns",
        experts: Experts,
        exchange: "CrossExpertAttention | NoExchange",
        epsilon: float,
    ) -> None:
        """gate: for items as wide as all roles together."""
        super().__init__()
        self.offset = nn.Parameter(torch.empty(max_dreams, len(ROLES) * size))
        self.role_norm = RMSNorm(size, epsilon)
        self.gate, self.experts, self.exchange = gate, experts, exchange

    def forward(
        self, roles_R3C: Float[Tensor, "R 3 C"], real_R: Bool[Tensor, " R"], num_dreams: int, length: int
    ) -> Dreams:
        offset_N3C = self.offset[:num_dreams].view(num_dreams, len(ROLES), -1)
        items_RN3C = self.role_norm(roles_R3C)[:, None] + F.rms_norm(offset_N3C, offset_N3C.shape[2:])
        items_Z3C = items_RN3C.flatten(0, 1)
        real_Z = real_R.repeat_interleave(num_dreams)
        if isinstance(self.gate, Turns):
            routing = self.gate(torch.arange(num_dreams, device=real_Z.device).repeat(len(real_R)), real_Z)
        else:
            routing = self.gate(items_Z3C.flatten(1), real_Z)
        results_ZKL3C = self.experts.by_choice(items_Z3C, routing, length=length)
        results_RNKL3C = self.exchange(results_ZKL3C.view(-1, num_dreams, *results_ZKL3C.shape[1:]))
        steps_ZL3C = mixed(results_RNKL3C.flatten(0, 1), routing)
        return Dreams(steps_ZL3C.view(-1, num_dreams, *steps_ZL3C.shape[1:]), routing)


@final
class Turns(nn.Module):
    """Sends every dream to the experts whose turn it is, whatever it is about, and has no weights."""

    def __init__(self, num_experts: int, top_k: int) -> None:
        super().__init__()
        self.num_experts, self.top_k = num_experts, top_k

    def forward(self, dream_N: Int[Tensor, " N"], real_N: Bool[Tensor, " N"]) -> Routing:
        turn_NK = dream_N[:, None] * self.top_k + torch.arange(self.top_k, device=dream_N.device)
        expert_NK = torch.where(real_N[:, None], turn_NK % self.num_experts, self.num_experts)
        count_E = torch.bincount(expert_NK.flatten(), minlength=self.num_experts + 1)[: self.num_experts]
        weight_NK = torch.full_like(expert_NK, 1 / self.top_k, dtype=torch.float32)
        return Routing(expert_NK, weight_NK, count_E, weight_NK.new_zeros(()))


@final
class CrossExpertAttention(nn.Module):
    """What all experts of all dreams of a row made of the same role at the same step attend to one another."""

    def __init__(self, size: int, num_heads: int, epsilon: float) -> None:
        super().__init__()
        self.attention = SelfAttention(size, num_heads, epsilon)

    def forward(self, results_RNKL3C: Float[Tensor, "R N K L 3 C"]) -> Float[Tensor, "R N K L 3 C"]:
        rows, dreams, choices, length, roles, _ = results_RNKL3C.shape
        together_ZVC = results_RNKL3C.permute(0, 3, 4, 1, 2, 5).flatten(3, 4).flatten(0, 2)
        told_ZVC: Tensor = self.attention(together_ZVC)
        told_RL3NKC = told_ZVC.view(rows, length, roles, dreams, choices, -1)
        return results_RNKL3C + told_RL3NKC.permute(0, 3, 4, 1, 2, 5)


@final
class NoExchange(nn.Module):
    """Every expert dreams for itself."""

    def forward(self, results_RNKL3C: Tensor) -> Tensor:
        return results_RNKL3C
