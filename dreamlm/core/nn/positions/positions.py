"""How a token knows where it stands: what is added to its embedding, and what is done to its queries and keys."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, final

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from dreamlm.core.config import ConfigModel
from dreamlm.core.errors import RangeError

LayerChoice = Literal["all", "lower_half", "upper_half"] | tuple[Annotated[int, Field(ge=0)], ...]
"""Layers by a word or by their numbers from 0; the middle one of an odd number belongs to both halves."""


class Placement(ABC):
    """Marks queries and keys (B, heads, T, K) with the positions of their tokens; may append components to both."""

    @abstractmethod
    def query(self, query_BHTK: Float[Tensor, "B H T K"], layer: int) -> Float[Tensor, "B H T J"]: ...

    @abstractmethod
    def key(self, key_BGTK: Float[Tensor, "B G T K"], layer: int) -> Float[Tensor, "B G T J"]: ...


@final
@dataclass(frozen=True)
class Unplaced(Placement):
    """Leaves queries and keys as they are."""

    def query(self, query_BHTK: Tensor, layer: int) -> Tensor:
        return query_BHTK

    def key(self, key_BGTK: Tensor, layer: int) -> Tensor:
        return key_BGTK


class Positions(nn.Module, ABC):
    """Shapes: hidden (B, T, D), queries and keys (B, heads, T, K), positions (B, T) counted within the document."""

    class Config(ConfigModel, ABC):
        """What every kind of position can be asked before a model is built."""

        @abstractmethod
        def check(self, num_layers: int) -> None:
            """Raises: ValueError when these positions do not fit a model of that many layers."""

        @abstractmethod
        def extended(self, trained: int, length: int, layers: LayerChoice | None) -> "Positions.Config":
            """The positions with which a model trained on windows of `trained` tokens reads `length` tokens.

            layers: which layers see re-scaled positions; None leaves that to the kind.
            Raises: RangeError when layers are named and this kind re-scales no layer.
            """

        @abstractmethod
        def build(
            self, hidden_size: int, num_heads: int, head_size: int, num_layers: int, seq_length: int
        ) -> "Positions": ...

    max_positions: int | None
    """How many positions exist; None when any position can be computed."""

    @abstractmethod
    def embed(self, hidden_BTD: Float[Tensor, "B T D"], position_BT: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        """What the first layer sees, given the token embeddings."""

    @abstractmethod
    def place(self, position_BT: Int[Tensor, "B T"], dtype: torch.dtype) -> Placement:
        """What marks the queries and keys of every layer; computed once per segment, in `dtype`."""


def chosen_layers(choice: LayerChoice, num_layers: int) -> Sequence[int]:
    """The numbers of the chosen layers."""
    half = (num_layers + 1) // 2
    if choice == "all":
        return range(num_layers)
    if choice == "lower_half":
        return range(half)
    if choice == "upper_half":
        return range(num_layers - half, num_layers)
    return choice


def refuse_layers(kind: str, layers: LayerChoice | None) -> None:
    """The answer of positions that re-scale no layer.  Raises: RangeError when some layers are named."""
    if layers not in (None, "all"):
        raise RangeError(
            f"positions of type {kind!r} cannot be re-scaled in some layers only: no layer has positions of its own",
            where="rescale_layers",
            valid=["all"],
            hint="extend without naming layers",
        )
