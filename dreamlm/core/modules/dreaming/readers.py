"""How tokens use what dreams came to; what is added to them comes from a layer named `residual`."""

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dreamlm.core.modules.dreaming.attention import linear
from dreamlm.core.nn.norm import RMSNorm
from dreamlm.core.nn.pooling import LearnedQueries, attend


@final
class AttentionReader(nn.Module):
    """Every token attends to all nodes.  Cost: O(T * (D^2 + G * D) + G * C * D) per row."""

    def __init__(self, hidden_size: int, num_heads: int, size: int, epsilon: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm, self.node_norm = RMSNorm(hidden_size, epsilon), RMSNorm(size, epsilon)
        self.query = linear(hidden_size, hidden_size)
        self.key, self.value = linear(size, hidden_size), linear(size, hidden_size)
        self.residual = linear(hidden_size, hidden_size)

    def forward(self, hidden_BTD: Float[Tensor, "B T D"], nodes_BGC: Float[Tensor, "B G C"]) -> Float[Tensor, "B T D"]:
        query_BTD, normal_BGC = self.query(self.norm(hidden_BTD)), self.node_norm(nodes_BGC)
        found_BTD = attend(query_BTD, self.key(normal_BGC), self.value(normal_BGC), self.num_heads)
        added: Tensor = self.residual(found_BTD)
        return added


@final
class GateReader(nn.Module):
    """A learned query pools the nodes; every token lets in what it wants of that.

    Cost: O(T * C * D) per row, whatever the number of nodes.
    """

    def __init__(self, hidden_size: int, num_heads: int, size: int, epsilon: float) -> None:
        """num_heads: of the pooling."""
        super().__init__()
        self.norm, self.node_norm = RMSNorm(hidden_size, epsilon), RMSNorm(size, epsilon)
        self.pooling = LearnedQueries(1, size, num_heads, epsilon)
        self.key, self.value = linear(size, size), linear(size, size)
        self.gate = linear(hidden_size, size)
        self.residual = linear(size, hidden_size)

    def forward(self, hidden_BTD: Float[Tensor, "B T D"], nodes_BGC: Float[Tensor, "B G C"]) -> Float[Tensor, "B T D"]:
        normal_BGC = self.node_norm(nodes_BGC)
        pooled_B1C = self.pooling(self.key(normal_BGC), self.value(normal_BGC))
        added: Tensor = self.residual(torch.sigmoid(self.gate(self.norm(hidden_BTD))) * pooled_B1C)
        return added
