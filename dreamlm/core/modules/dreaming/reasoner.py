"""Messages between the steps of dreams.

node   what a step's triplet says, and what the node remembers
hop    each node hears its sources, the louder the better they fit it and the more the edge's type counts, and
       remembers of it what its gate lets in
"""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from dreamlm.core.modules.dreaming.attention import linear
from dreamlm.core.modules.dreaming.edges import Edges, FixedEdgeTypes, LearnedEdgeTypes, edges_between
from dreamlm.core.nn.norm import RMSNorm
from dreamlm.core.nn.pooling import split
from dreamlm.core.roles import ROLES


@final
@dataclass(frozen=True)
class Reasoned:
    """What the graph of every row came to."""

    nodes_RGC: Float[Tensor, "R G C"]
    memory_RGC: Float[Tensor, "R G C"]
    """What of it was told to the nodes."""
    edges: Edges
    share_RXY: Float[Tensor, "R X Y"]
    """The types of each edge; sum to 1."""


@final
class DreamGraphReasoner(nn.Module):
    """Graph attention over the steps of dreams, with types of edges as biases and one set of weights for all hops.

    Source: attention with a bias per head and edge as in Ying et al. 2021 (Graphormer); gated updates as in Li et al.
    2016, "Gated Graph Sequence Neural Networks".
    Cost: O(hops * (G * C^2 + G^2 * C)) per row: all pairs of nodes are scored, which for so few is faster than edge by
    edge.
    """

    def __init__(
        self,
        size: int,
        num_types: int,
        types: LearnedEdgeTypes | FixedEdgeTypes,
        update: "GatedMemory | Residual",
        num_heads: int,
        epsilon: float,
    ) -> None:
        super().__init__()
        self.step_norm = RMSNorm(size, epsilon)
        self.node = linear(len(ROLES) * size, size)
        self.norm = RMSNorm(size, epsilon)
        self.types = types
        self.type_vector = nn.Parameter(torch.empty(num_types, size))
        self.type_bias = linear(size, num_heads)
        self.messages = Messages(size, num_heads)
        self.update = update

    def forward(
        self, steps_RNL3C: Float[Tensor, "R N L 3 C"], memory_RGC: Float[Tensor, "R G C"], hops: int
    ) -> Reasoned:
        """memory_RGC: what the nodes remember of the segments before."""
        said_RGC = self.node(self.step_norm(steps_RNL3C).flatten(3)).flatten(1, 2)
        _, num_dreams, length, *_ = steps_RNL3C.shape
        edges = edges_between(num_dreams, length, steps_RNL3C.device)
        share_RXY = self.types(self.norm(said_RGC + memory_RGC), edges)
        # The bias of a mixture of types is the mixture of their biases.
        bias_RXH = share_RXY @ self.type_bias(self.type_vector).to(share_RXY.dtype)
        bias_RHGG = self._table(bias_RXH, edges, said_RGC.shape[1])
        for _ in range(hops):
            message_RGC = self.messages(self.norm(said_RGC + memory_RGC), bias_RHGG)
            memory_RGC = self.update(message_RGC, memory_RGC)
        return Reasoned(said_RGC + memory_RGC, memory_RGC, edges, share_RXY)

    def _table(self, bias_RXH: Float[Tensor, "R X H"], edges: Edges, nodes: int) -> Float[Tensor, "R H G G"]:
        """By [target, source]; nothing comes from where there is no edge."""
        table_RGGH = bias_RXH.new_full((len(bias_RXH), nodes, nodes, bias_RXH.shape[2]), -torch.inf)
        table_RGGH[:, edges.target_X, edges.source_X] = bias_RXH
        return table_RGGH.permute(0, 3, 1, 2)


@final
class Messages(nn.Module):
    """What each node hears from its sources.

    It may also listen to nobody, which scores 0: so how much is heard depends on the edge where there is only one, and
    a node without sources hears nothing.
    """

    def __init__(self, size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query, self.key, self.value = (linear(size, size) for _ in range(3))
        self.output = linear(size, size)

    def forward(
        self, normal_RGC: Float[Tensor, "R G C"], bias_RHGG: Float[Tensor, "R H G G"]
    ) -> Float[Tensor, "R G C"]:
        query_RHGK, key_RHGK, value_RHGK = (
            split(part(normal_RGC), self.num_heads) for part in (self.query, self.key, self.value)
        )
        score_RHGG = query_RHGK @ key_RHGK.transpose(2, 3) * query_RHGK.shape[3] ** -0.5 + bias_RHGG
        weight_RHGG = F.pad(score_RHGG, (1, 0)).softmax(dim=3)[..., 1:]
        heard_RHGK = weight_RHGG.to(value_RHGK.dtype) @ value_RHGK
        message: Tensor = self.output(heard_RHGK.transpose(1, 2).flatten(2))
        return message


@final
class GatedMemory(nn.Module):
    """A gated recurrent unit: decides for each number what is kept, and what of the message comes in.

    Source: Cho et al. 2014, in the form of `torch.nn.GRUCell`.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.message, self.memory = nn.Linear(size, 3 * size), nn.Linear(size, 3 * size)

    def forward(
        self, message_RGC: Float[Tensor, "R G C"], memory_RGC: Float[Tensor, "R G C"]
    ) -> Float[Tensor, "R G C"]:
        reset_in, keep_in, new_in = self.message(message_RGC).chunk(3, dim=2)
        reset_own, keep_own, new_own = self.memory(memory_RGC).chunk(3, dim=2)
        keep_RGC = torch.sigmoid(keep_in + keep_own)
        new_RGC = torch.tanh(new_in + torch.sigmoid(reset_in + reset_own) * new_own)
        return new_RGC + keep_RGC * (memory_RGC - new_RGC)


@final
class Residual(nn.Module):
    """Every message is added to those before."""

    def forward(self, message_RGC: Tensor, memory_RGC: Tensor) -> Tensor:
        return memory_RGC + message_RGC
