"""A feed-forward layer of which each token uses a few experts."""

import math
from collections.abc import Mapping
from typing import Literal, final

from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from dreamlm.core.config import ConfigModel
from dreamlm.core.nn.feedforward.feedforward import FeedForward
from dreamlm.core.nn.moe.dispatch import Experts
from dreamlm.core.nn.moe.gate import NoisyTopKGate
from dreamlm.core.nn.signal import Output, Segment


@final
class MixtureOfExperts(FeedForward):
    """Each token is computed by `top_k` of `num_experts` SwiGLU layers; padding is computed by none.

    As long as experts have their default size, a token costs what it costs in a dense SwiGLU of the same
    `intermediate_size`, and the layer holds E/K times the weights.
    Source: Shazeer et al. 2017; SwiGLU experts of a decoder: Jiang et al. 2024 (Mixtral).
    """

    class Config(ConfigModel):
        type: Literal["moe"] = "moe"
        num_experts: int = Field(8, ge=2)
        """Experts of each layer."""
        top_k: int = Field(2, ge=1)
        """Experts that compute each token."""
        noise_std: float = Field(0.1, ge=0.0)
        """Scale of the noise on the gate's logits in training; 0 has none."""
        load_balance_weight: float = Field(0.01, ge=0.0)
        """Weight of the loss `moe_balance`, which is about 1 when all experts are used alike."""
        expert_size: int | None = Field(None, ge=1)
        """Width inside one expert; default `intermediate_size` / `top_k`, rounded up to a multiple of 16."""

        @model_validator(mode="after")
        def _enough_experts(self) -> "MixtureOfExperts.Config":
            if self.top_k > self.num_experts:
                raise ValueError(f"top_k {self.top_k} cannot exceed num_experts {self.num_experts}")
            return self

        @property
        def loss_weights(self) -> Mapping[str, float]:
            return {"moe_balance": self.load_balance_weight}

        def default_size(self, hidden_size: int) -> float:
            """What a dense SwiGLU has: the width that a token meets, over its `top_k` experts."""
            return hidden_size * 8 / 3

        def build(self, hidden_size: int, intermediate_size: int, num_layers: int) -> "MixtureOfExperts":
            expert_size = self.expert_size or 16 * math.ceil(intermediate_size / self.top_k / 16)
            return MixtureOfExperts(self, hidden_size, expert_size, num_layers)

    def __init__(self, config: Config, hidden_size: int, expert_size: int, num_layers: int) -> None:
        super().__init__()
        self.gate = NoisyTopKGate(hidden_size, config.num_experts, config.top_k, config.noise_std)
        experts = (Expert(hidden_size, expert_size) for _ in range(config.num_experts))
        self.experts = Experts(experts, config.top_k)
        self._num_layers = num_layers

    def forward(self, hidden_BTD: Tensor, segment: Segment) -> Output:
        """The loss is a sum over real tokens divided by the layers: per token, it is the mean balance of all layers."""
        items_ND, real_N = hidden_BTD.flatten(0, 1), segment.documents_BT.flatten() >= 0
        routing = self.gate(items_ND, real_N)
        mixed_ND = self.experts(items_ND, routing)
        balance = routing.balance * real_N.sum() / self._num_layers
        return Output(mixed_ND.view_as(hidden_BTD), {"moe_balance": balance}, {"usage": routing.usage_E})


@final
class Expert(nn.Module):
    """down(silu(gate(x)) * up(x)), without biases, on items (N, D)."""

    def __init__(self, hidden_size: int, expert_size: int) -> None:
        super().__init__()
        self.gate = nn.Linear(hidden_size, expert_size, bias=False)
        self.up = nn.Linear(hidden_size, expert_size, bias=False)
        self.down = nn.Linear(expert_size, hidden_size, bias=False)

    def forward(self, items_ND: Tensor) -> Tensor:
        mapped: Tensor = self.down(F.silu(self.gate(items_ND)) * self.up(items_ND))
        return mapped
