"""How a token knows where it stands: what is added to its embedding, and what is done to its queries and keys."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class Placement(ABC):
    """Marks queries and keys (B, heads, T, K) with the positions of their tokens; may append components to both."""

    @abstractmethod
    def query(self, query_BHTK: Float[Tensor, "B H T K"]) -> Float[Tensor, "B H T J"]: ...

    @abstractmethod
    def key(self, key_BGTK: Float[Tensor, "B G T K"]) -> Float[Tensor, "B G T J"]: ...


@final
@dataclass(frozen=True)
class Unplaced(Placement):
    """Leaves queries and keys as they are."""

    def query(self, query_BHTK: Tensor) -> Tensor:
        return query_BHTK

    def key(self, key_BGTK: Tensor) -> Tensor:
        return key_BGTK


class Positions(nn.Module, ABC):
    """Shapes: hidden (B, T, D), queries and keys (B, heads, T, K), positions (B, T) counted within the document."""

    max_positions: int | None
    """How many positions exist; None when any position can be computed."""

    @abstractmethod
    def embed(self, hidden_BTD: Float[Tensor, "B T D"], position_BT: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        """What the first layer sees, given the token embeddings."""

    @abstractmethod
    def place(self, position_BT: Int[Tensor, "B T"], dtype: torch.dtype) -> Placement:
        """What marks the queries and keys of every layer; computed once per segment, in `dtype`."""
