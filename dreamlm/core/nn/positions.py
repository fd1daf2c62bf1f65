"""How a token knows where it stands. One interface, final implementations: rotary and learned."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, Literal, final

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from dreamlm.core.config import ConfigModel, choice


class Positions(nn.Module, ABC):
    """Shapes: hidden (B, T, D), queries and keys (B, heads, T, K), positions (B, T) counted within the document."""

    max_positions: int | None
    """How many positions exist; None when any position can be computed."""

    @abstractmethod
    def embed(self, hidden_BTD: Float[Tensor, "B T D"], position_BT: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        """What is added to the token embeddings."""

    @abstractmethod
    def rotation(self, position_BT: Int[Tensor, "B T"], dtype: torch.dtype) -> "Rotation":
        """What turns the queries and keys of every layer; computed once per segment."""


class Rotation(ABC):
    """Turns queries or keys (B, heads, T, K) by the positions of their tokens."""

    @abstractmethod
    def __call__(self, heads_BHTK: Float[Tensor, "B H T K"]) -> Float[Tensor, "B H T K"]: ...


@final
@dataclass(frozen=True)
class HalfSplitRotation(Rotation):
    """Turns component k together with component k + K/2; cosine and sine are (B, 1, T, K)."""

    cosine: Float[Tensor, "B 1 T K"]
    sine: Float[Tensor, "B 1 T K"]

    def __call__(self, heads_BHTK: Float[Tensor, "B H T K"]) -> Float[Tensor, "B H T K"]:
        first, second = heads_BHTK.chunk(2, dim=-1)
        return heads_BHTK * self.cosine + torch.cat([-second, first], dim=-1) * self.sine


@final
@dataclass(frozen=True)
class NoRotation(Rotation):
    """Leaves queries and keys as they are."""

    def __call__(self, heads_BHTK: Float[Tensor, "B H T K"]) -> Float[Tensor, "B H T K"]:
        return heads_BHTK


@final
class Rotary(Positions):
    """Rotary position embedding, in the half-split layout that `transformers` Llama uses.

    Source: Su et al. 2021, "RoFormer", section 3.4.
    """

    class Config(ConfigModel):
        type: Literal["rope"] = "rope"
        theta: float = Field(10_000.0, gt=1.0)
        """Base of the geometric series of wavelengths."""

        def build(self, hidden_size: int, head_size: int, seq_length: int) -> "Rotary":
            return Rotary(head_size, self.theta)

    def __init__(self, head_size: int, theta: float) -> None:
        super().__init__()
        self.max_positions = None
        self.head_size, self.theta = head_size, theta
        # Kept as a plain tensor in fp32: neither bf16 casts nor checkpoints may touch it.
        self._frequency_K2 = theta ** (-torch.arange(0, head_size, 2, dtype=torch.float32) / head_size)

    def embed(self, hidden_BTD: Tensor, position_BT: Tensor) -> Tensor:
        return hidden_BTD

    def rotation(self, position_BT: Tensor, dtype: torch.dtype) -> Rotation:
        if self._frequency_K2.device != position_BT.device:
            self._frequency_K2 = self._frequency_K2.to(position_BT.device)
        angle_BTK2 = position_BT[:, :, None].float() * self._frequency_K2
        angle_B1TK = torch.cat([angle_BTK2, angle_BTK2], dim=-1)[:, None]
        return HalfSplitRotation(angle_B1TK.cos().to(dtype), angle_B1TK.sin().to(dtype))


@final
class Learned(Positions):
    """A table of learned vectors, one for each position of a document, added to the token embeddings."""

    class Config(ConfigModel):
        type: Literal["learned"] = "learned"

        def build(self, hidden_size: int, head_size: int, seq_length: int) -> "Learned":
            return Learned(hidden_size, seq_length)

    def __init__(self, hidden_size: int, seq_length: int) -> None:
        super().__init__()
        self.max_positions = seq_length
        self.table = nn.Embedding(seq_length, hidden_size)

    def embed(self, hidden_BTD: Tensor, position_BT: Tensor) -> Tensor:
        embedded: Tensor = hidden_BTD + self.table(position_BT)
        return embedded

    def rotation(self, position_BT: Tensor, dtype: torch.dtype) -> Rotation:
        return NoRotation()


PositionsConfig = Annotated[
    Learned.Config | Rotary.Config,
    Field(discriminator="type"),
    choice("rope"),
]
