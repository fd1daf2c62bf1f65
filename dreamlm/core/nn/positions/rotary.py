"""Rotary position embedding."""

from dataclasses import dataclass
from typing import Literal, final

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from dreamlm.core.config import ConfigModel
from dreamlm.core.nn.positions.positions import Placement, Positions


@final
@dataclass(frozen=True)
class Rotation(Placement):
    """Turns component k together with component k + K/2; cosine and sine are (B, 1, T, K)."""

    cosine: Float[Tensor, "B 1 T K"]
    sine: Float[Tensor, "B 1 T K"]

    def query(self, query_BHTK: Tensor) -> Tensor:
        return self._turn(query_BHTK)

    def key(self, key_BGTK: Tensor) -> Tensor:
        return self._turn(key_BGTK)

    def _turn(self, heads_BHTK: Tensor) -> Tensor:
        first, second = heads_BHTK.chunk(2, dim=-1)
        return heads_BHTK * self.cosine + torch.cat([-second, first], dim=-1) * self.sine


@final
class Rotary(Positions):
    """Rotary position embedding, in the half-split layout that `transformers` Llama uses.

    Source: Su et al. 2021, "RoFormer", section 3.4.
    """

    class Config(ConfigModel):
        type: Literal["rope"] = "rope"
        theta: float = Field(10_000.0, gt=1.0)
        """Base of the geometric series of wavelengths."""

        def build(self, hidden_size: int, num_heads: int, seq_length: int) -> "Rotary":
            return Rotary(hidden_size // num_heads, self.theta)

    def __init__(self, head_size: int, theta: float) -> None:
        super().__init__()
        self.max_positions = None
        self.head_size, self.theta = head_size, theta
        # Kept as a plain tensor in fp32: neither bf16 casts nor checkpoints may touch it.
        self._frequency_K2 = theta ** (-torch.arange(0, head_size, 2, dtype=torch.float32) / head_size)

    def embed(self, hidden_BTD: Tensor, position_BT: Tensor) -> Tensor:
        return hidden_BTD

    def place(self, position_BT: Tensor, dtype: torch.dtype) -> Placement:
        if self._frequency_K2.device != position_BT.device:
            self._frequency_K2 = self._frequency_K2.to(position_BT.device)
        angle_BTK2 = position_BT[:, :, None].float() * self._frequency_K2
        angle_B1TK = torch.cat([angle_BTK2, angle_BTK2], dim=-1)[:, None]
        return Rotation(angle_B1TK.cos().to(dtype), angle_B1TK.sin().to(dtype))
