"""What a segment is about, in three vectors."""

from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dreamlm.core.modules.dreaming import ROLES
from dreamlm.core.modules.dreaming.attention import attend, linear
from dreamlm.core.nn.norm import RMSNorm


@final
class RolePooling(nn.Module):
    """A learned query for each role attends to the tokens of a segment, whose keys and values say their place in it.

    So the order of tokens matters even where their vectors do not know it.
    Source: learned queries as in Lee et al. 2019, "Set Transformer".
    """

    def __init__(self, hidden_size: int, segment_length: int, size: int, num_heads: int, epsilon: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = RMSNorm(hidden_size, epsilon)
        self.query = nn.Parameter(torch.empty(len(ROLES), size))
        self.place = nn.Parameter(torch.empty(segment_length, size))
        self.key, self.value = linear(hidden_size, size), linear(hidden_size, size)

    def content(self, hidden_VD: Float[Tensor, "V D"]) -> Float[Tensor, "V C"]:
        """What a role takes over of a vector that it attends to alone, without what tells the vector's place."""
        content: Tensor = self.value(self.norm(hidden_VD))
        return content

    def forward(self, hidden_RSD: Float[Tensor, "R S D"], own_RS: Bool[Tensor, "R S"]) -> Float[Tensor, "R 3 C"]:
        """The roles of each row, made of the tokens that are its own."""
        normal_RSD, place_SC = self.norm(hidden_RSD), self.place[: hidden_RSD.shape[1]]
        # A row without a token of its own is thrown away by the caller; it must only stay finite.
        seen_RS = own_RS | ~own_RS.any(dim=1, keepdim=True)
        key_RSC, value_RSC = (part(normal_RSD) + place_SC.to(normal_RSD.dtype) for part in (self.key, self.value))
        query_R3C = self.query.to(key_RSC.dtype).expand(len(hidden_RSD), -1, -1)
        return attend(query_R3C, key_RSC, value_RSC, self.num_heads, seen_RS[:, None, None])
