"""What a segment is about, in three vectors."""

from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from dreamlm.core.modules.dreaming.attention import linear
from dreamlm.core.nn.norm import RMSNorm
from dreamlm.core.nn.pooling import LearnedQueries
from dreamlm.core.roles import ROLES

_STRETCH = 1024
"""Vectors that are mapped at once."""


@final
class RolePooling(nn.Module):
    """A learned query for each role attends to the tokens of a segment, whose keys say their place in it.

    What a token says and where it stands weigh the same in a fresh key, so the order of tokens matters even where their
    vectors do not know it.
    """

    def __init__(self, hidden_size: int, segment_length: int, size: int, num_heads: int, epsilon: float) -> None:
        super().__init__()
        self.norm = RMSNorm(hidden_size, epsilon)
        self.place = nn.Parameter(torch.empty(segment_length, size))
        self.key, self.value = linear(hidden_size, size), linear(hidden_size, size)
        self.queries = LearnedQueries(len(ROLES), size, num_heads, epsilon)

    def distinctive(self, hidden_VD: Float[Tensor, "V D"], dtype: torch.dtype) -> Float[Tensor, "V C"]:
        """What a role takes over of each vector that it attends to alone, less the mean of that over all of them.

        The mean goes before the map, which is linear: so `dtype` rounds only what tells the vectors apart. It is done
        in stretches that a processor's cache holds.
        """
        stretches, weight_CD = torch.split(hidden_VD, _STRETCH), self.value.weight.to(dtype)
        sums_D = [self.norm(one).sum(dim=0, dtype=torch.float32) for one in stretches]
        mean_D = torch.stack(sums_D).sum(dim=0) / len(hidden_VD)
        return torch.cat([F.linear((self.norm(one) - mean_D).to(dtype), weight_CD) for one in stretches])

    def forward(self, hidden_RSD: Float[Tensor, "R S D"], own_RS: Bool[Tensor, "R S"]) -> Float[Tensor, "R 3 C"]:
        """The roles of each row, made of the tokens that are its own."""
        normal_RSD, place_SC = self.norm(hidden_RSD), self.place[: hidden_RSD.shape[1]]
        key_RSC = F.rms_norm(self.key(normal_RSD), place_SC.shape[1:])
        key_RSC = key_RSC + F.rms_norm(place_SC, place_SC.shape[1:]).to(key_RSC.dtype)
        # A row without a token of its own is thrown away by the caller; it must only stay finite.
        seen_RS = own_RS | ~own_RS.any(dim=1, keepdim=True)
        roles_R3C: Tensor = self.queries(key_RSC, self.value(normal_RSD), seen_RS[:, None])
        return roles_R3C
