"""Along which edges messages go between the steps of dreams, and of which type each edge is."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from dreamlm.core.modules.dreaming.attention import linear

_NAMES = ("temporal", "spatial", "causal", "abstract")


def edge_type_names(num_types: int) -> tuple[str, ...]:
    """What the types of edges are called, by their number."""
    return (*_NAMES[:num_types], *(f"type_{number}" for number in range(len(_NAMES), num_types)))


@final
@dataclass(frozen=True)
class Edges:
    """Node n * L + l is step l of dream n.  Messages go from a source to a target."""

    source_X: Int[Tensor, " X"]
    target_X: Int[Tensor, " X"]
    inside_X: Bool[Tensor, " X"]
    """Whether the edge is inside a dream, from a step to the next; the others join equal steps of two dreams."""

    def laid_out(self, values_RX: Float[Tensor, "R X *W"], nodes: int) -> Float[Tensor, "R G G *W"]:
        """The values by [source, target], and 0 where there is no edge."""
        table_RGG = values_RX.new_zeros(len(values_RX), nodes, nodes, *values_RX.shape[2:])
        table_RGG[:, self.source_X, self.target_X] = values_RX
        return table_RGG


def edges_between(num_dreams: int, length: int, device: torch.device) -> Edges:
    """Every edge of dreams of that length, in the order of sources and targets."""
    node_G = torch.arange(num_dreams * length)
    dream_G, step_G = node_G // length, node_G % length
    same_GG = dream_G[:, None] == dream_G
    next_GG = same_GG & (step_G[:, None] + 1 == step_G)
    source_X, target_X = (next_GG | (~same_GG & (step_G[:, None] == step_G))).nonzero(as_tuple=True)
    return Edges(source_X.to(device), target_X.to(device), next_GG[source_X, target_X].to(device))


@final
class LearnedEdgeTypes(nn.Module):
    """Shares of the types: softmax(MLP[source; target]), where the usual type of an edge starts with a logit of 1.

    So types have a reason to be called temporal and spatial; what else they come to mean is learned.
    Cost: O(G * C^2 + X * C * Y), because the MLP's first layer is applied to nodes and not to pairs of them.
    """

    def __init__(self, size: int, num_types: int) -> None:
        super().__init__()
        self.num_types = num_types
        self.source, self.target = linear(size, size), linear(size, size)
        self.output = linear(size, num_types)
        self.usual = nn.Parameter(torch.ones(1))

    def forward(self, normal_RGC: Float[Tensor, "R G C"], edges: Edges) -> Float[Tensor, "R X Y"]:
        pair_RXC = self.source(normal_RGC)[:, edges.source_X] + self.target(normal_RGC)[:, edges.target_X]
        logits_RXY = self.output(F.gelu(pair_RXC)) + self.usual * _usual_types(edges, self.num_types)
        share_RXY: Tensor = logits_RXY.float().softmax(dim=2)
        return share_RXY


@final
class FixedEdgeTypes(nn.Module):
    """Every edge is of its usual type."""

    def __init__(self, num_types: int) -> None:
        super().__init__()
        self.num_types = num_types

    def forward(self, normal_RGC: Float[Tensor, "R G C"], edges: Edges) -> Float[Tensor, "R X Y"]:
        return _usual_types(edges, self.num_types).float().expand(len(normal_RGC), -1, -1)


def _usual_types(edges: Edges, num_types: int) -> Int[Tensor, "X Y"]:
    """1 at the first type for an edge inside a dream, at the second, if there is one, for an edge between dreams."""
    return F.one_hot(torch.where(edges.inside_X, 0, min(1, num_types - 1)), num_types)
