"""One of the minds that dream."""

from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from dreamlm.core.modules.dreaming.attention import SelfAttention, linear
from dreamlm.core.nn.norm import RMSNorm
from dreamlm.core.roles import ROLES


@final
class DreamExpert(nn.Module):
    """Unfolds roles into the steps of a dream: pre-norm transformer blocks over all roles of all steps.

    A step sees those before it and itself, so that a longer dream begins as the shorter one does. Places are as large
    as items, because steps would be alike otherwise.
    """

    def __init__(self, size: int, num_heads: int, num_layers: int, max_length: int, epsilon: float) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.empty(max_length * len(ROLES), size))
        self.blocks = nn.ModuleList(_Block(size, num_heads, epsilon) for _ in range(num_layers))

    def forward(self, items_Z3C: Float[Tensor, "Z 3 C"], length: int) -> Float[Tensor, "Z L 3 C"]:
        place_L3C = self.place[: length * len(ROLES)].view(length, len(ROLES), -1)
        place_L3C = F.rms_norm(place_L3C, place_L3C.shape[2:])
        vectors_ZVC = (items_Z3C[:, None] + place_L3C).flatten(1, 2)
        step_V = torch.arange(vectors_ZVC.shape[1], device=items_Z3C.device) // len(ROLES)
        seen_VV = step_V[:, None] >= step_V
        for block in self.blocks:
            vectors_ZVC = block(vectors_ZVC, seen_VV[None])
        return vectors_ZVC.view(len(items_Z3C), *place_L3C.shape)


@final
class _Block(nn.Module):
    """Attention, then GELU at four times the width, each added to the vectors.  Source: Xiong et al. 2020."""

    def __init__(self, size: int, num_heads: int, epsilon: float) -> None:
        super().__init__()
        self.attention = SelfAttention(size, num_heads, epsilon)
        self.norm = RMSNorm(size, epsilon)
        self.up, self.down = linear(size, 4 * size), linear(4 * size, size)

    def forward(self, vectors_ZVC: Float[Tensor, "Z V C"], seen: Bool[Tensor, "1 V V"]) -> Float[Tensor, "Z V C"]:
        vectors_ZVC = vectors_ZVC + self.attention(vectors_ZVC, seen)
        mapped_ZVC: Tensor = self.down(F.gelu(self.up(self.norm(vectors_ZVC)), approximate="tanh"))
        return vectors_ZVC + mapped_ZVC
