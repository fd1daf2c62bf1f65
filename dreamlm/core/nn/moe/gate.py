"""Which experts compute an item, and how their results are mixed: a noisy top-k gate.

1. every expert gets a logit from the item; in training noise is added, as loud as the item asks for
2. the K highest are chosen; the softmax over them mixes their results
3. the balance loss grows when few experts get most of the items
"""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F


@final
@dataclass(frozen=True)
class Routing:
    """What the gate decided for N items; an item that is not real goes to no expert and counts nowhere."""

    expert_NK: Int[Tensor, "N K"]
    """The chosen experts, highest logit first; E, which is no expert, where the item is not real."""
    weight_NK: Float[Tensor, "N K"]
    """How their results are mixed, in fp32."""
    count_E: Int[Tensor, " E"]
    """Items each expert computes."""
    balance: Float[Tensor, ""]
    """E * sum(importance * load): about 1 when all experts are used alike, at most E; 0 without any real item."""

    @property
    def usage_E(self) -> Float[Tensor, " E"]:
        """Each expert's share of the choices; sums to 1, or is 0 without any real item."""
        return self.count_E / self.count_E.sum().clamp(min=1)


@final
class NoisyTopKGate(nn.Module):
    """Chooses `top_k` of `num_experts` for each item; computes in fp32 whatever surrounds it.

    Its weights wait for `initialise`, like all weights of a model.

    Source: Shazeer et al. 2017, section 2.1; balance loss: Fedus et al. 2021 (Switch Transformer), section 2.2, with K
    choices in place of one.  Departs: weights of all experts start as small random numbers, not as zero, because
    equal logits would send everything to the first experts; a single chosen expert is weighted with its probability
    among all, as in Switch, because a softmax over one is 1 and would teach the gate nothing.
    """

    def __init__(self, width: int, num_experts: int, top_k: int, noise_std: float) -> None:
        super().__init__()
        self.top_k = top_k
        self.clean = _Logits(width, num_experts)
        self.noise = _Noise(width, num_experts, noise_std) if noise_std > 0 else _Silence()

    def forward(self, items_ND: Float[Tensor, "N D"], real_N: Bool[Tensor, " N"]) -> Routing:
        with torch.autocast(items_ND.device.type, enabled=False):
            items_ND = items_ND.float()
            logits_NE = self.noise(items_ND, self.clean(items_ND))
            probability_NE = logits_NE.softmax(dim=1)
            chosen_NK, expert_NK = logits_NE.topk(self.top_k, dim=1)
            single = self.top_k == 1
            weight_NK = probability_NE.gather(1, expert_NK) if single else chosen_NK.softmax(dim=1)
            num_experts = logits_NE.shape[1]
            expert_NK = torch.where(real_N[:, None], expert_NK, num_experts)
            count_E = torch.bincount(expert_NK.flatten(), minlength=num_experts + 1)[:num_experts]
            return Routing(expert_NK, weight_NK, count_E, _balance(probability_NE, count_E, real_N))


def _balance(
    probability_NE: Float[Tensor, "N E"], count_E: Int[Tensor, " E"], real_N: Bool[Tensor, " N"]
) -> Float[Tensor, ""]:
    """Gradient flows through the importance only: how often an expert is chosen has none."""
    importance_E = (probability_NE * real_N[:, None]).sum(dim=0) / real_N.sum().clamp(min=1)
    load_E = count_E / count_E.sum().clamp(min=1)
    return len(count_E) * (importance_E * load_E).sum()


@final
class _Logits(nn.Module):
    """One logit for each expert, linear in the item; fp32 even where the weights are not."""

    def __init__(self, width: int, num_experts: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_experts, width))

    def forward(self, items_ND: Float[Tensor, "N D"]) -> Float[Tensor, "N E"]:
        return F.linear(items_ND, self.weight.float())


@final
class _Noise(nn.Module):
    """logits + N(0, 1) * softplus(linear(item)) * std, in training only; drawn from torch's global generator."""

    def __init__(self, width: int, num_experts: int, std: float) -> None:
        super().__init__()
        self.loudness = _Logits(width, num_experts)
        self.std = std

    def forward(self, items_ND: Float[Tensor, "N D"], logits_NE: Float[Tensor, "N E"]) -> Float[Tensor, "N E"]:
        if not self.training:
            return logits_NE
        return logits_NE + torch.randn_like(logits_NE) * F.softplus(self.loudness(items_ND)) * self.std


@final
class _Silence(nn.Module):
    """No noise, and nothing to learn about it."""

    def forward(self, items_ND: Tensor, logits_NE: Tensor) -> Tensor:
        return logits_NE
