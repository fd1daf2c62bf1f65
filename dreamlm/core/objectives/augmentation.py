"""Disturbed inputs: in training some rows are read with wrong, missing or displaced tokens, and predict the true ones.

    shuffle        within windows of a few tokens, the tokens of a document trade places
    substitution   a token becomes another one, drawn uniformly from the vocabulary
    dropout        a token becomes the model's mask vector
    noise          is added to the thoughts that modules read

Targets stay what they are, and so do padding, places of pictures and the end-of-document token that opens a document.
What is drawn comes from torch's global generator, which belongs to the micro-batch, as dropout's draws do.

A token that moves ahead is an answer: until its true place comes, the model would only have to copy it. So

    a causal model     is not asked for a token that was shown already; the row's other targets count more for it
    a diffusion model  has tokens trade places only among the targets of one block, which its slots see by no other way

Shapes: B rows, T inputs.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, model_validator
from torch import Tensor

from dreamlm.core.config import ConfigModel
from dreamlm.core.errors import UserMistake
from dreamlm.core.modules.row_noise import Noise, NoNoise, RowNoise
from dreamlm.core.modules.state import ModuleState
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.nn.signal import Carry


@dataclass(frozen=True)
class Inputs:
    """What a model reads of a micro-batch."""

    tokens_BT: Int[Tensor, "B T"]
    shown_BT: Bool[Tensor, "B T"] | None = None
    """Where the token behind the column was read there or before; None for nowhere."""
    noise: Noise = field(default_factory=NoNoise)
    """What modules' stacks are read with."""

    def start(self, model: DreamLM, records: bool = True) -> Carry:
        """The carry before the first token."""
        carry = model.start(len(self.tokens_BT), records)
        states = {
            name: replace(state, noise=self.noise) if isinstance(state, ModuleState) else state
            for name, state in carry.states.items()
        }
        return replace(carry, states=states)

    def importance(self, real_BT: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"] | None:
        """What each target counts: none that was shown, and a row as many as it has; None for 1 each."""
        if self.shown_BT is None:
            return None
        asked_BT = real_BT & ~self.shown_BT
        return asked_BT * (real_BT.sum(dim=1) / asked_BT.sum(dim=1).clamp(min=1))[:, None]


class Augmentation(ABC):
    """Decides what is read of a micro-batch."""

    @abstractmethod
    def inputs(self, model: DreamLM, tokens_BT: Int[Tensor, "B T"], documents_BT: Int[Tensor, "B T"]) -> Inputs:
        """What the model reads instead of these tokens; the tokens themselves in evaluation mode."""


@final
class Untouched(Augmentation):
    """Every row is read as it is; draws no random number."""

    def inputs(self, model: DreamLM, tokens_BT: Int[Tensor, "B T"], documents_BT: Int[Tensor, "B T"]) -> Inputs:
        return Inputs(tokens_BT)


UNTOUCHED = Untouched()


@final
class Disturbed(Augmentation):
    """Each row is disturbed with the same probability, then in all ways at once.

    Source: words dropped or replaced as in Wei & Zou 2019, "EDA"; local shuffle as in Lample et al. 2018, "Unsupervised
    Machine Translation Using Monolingual Corpora Only".  Departs: a shuffle never gives an answer away.
    """

    class Config(ConfigModel):
        """Which rows of a training batch are disturbed, and how much; targets and held-out text never are."""

        probability: float = Field(0.1, ge=0.0, le=1.0)
        """Of a row to be disturbed."""
        token_substitution: float = Field(0.05, ge=0.0, le=1.0)
        """Share of its tokens that become another, drawn uniformly; never padding or the end of a document."""
        token_dropout: float = Field(0.1, ge=0.0, le=1.0)
        """Share of its tokens that become the mask vector; a causal model needs `model.mask_vector` for it."""
        thought_noise: float = Field(0.01, ge=0.0)
        """Standard deviation of what is added to the thoughts that it reads."""
        local_shuffle: int = Field(5, ge=1)
        """Tokens of a window in which they trade places; 1 leaves each where it is."""

        @model_validator(mode="after")
        def _leaves_no_less_than_nothing(self) -> "Disturbed.Config":
            if self.token_substitution + self.token_dropout > 1.0:
                raise ValueError(
                    f"token_substitution {self.token_substitution} and token_dropout {self.token_dropout} "
                    "must make at most 1 together"
                )
            return self

        def build(self, model: DreamLM, vocab_size: int, end_id: int, padding_id: int) -> Augmentation:
            """vocab_size: of the tokenizer, which the model may exceed.

            Raises: UserMistake when tokens are dropped and the model has no vector for them.
            """
            if self.token_dropout and not model.config.masks:
                raise UserMistake(
                    "dropped tokens are read as a mask vector, and this model has none",
                    where="train.augmentation.token_dropout",
                    hint="--set model.mask_vector=true in a run that begins, or token_dropout=0",
                )
            return Disturbed(self, vocab_size, end_id, padding_id)

    def __init__(self, config: Config, vocab_size: int, end_id: int, padding_id: int) -> None:
        self._config, self._vocab_size, self._end_id = config, vocab_size, end_id
        self._never = sorted({end_id, padding_id})

    def inputs(self, model: DreamLM, tokens_BT: Int[Tensor, "B T"], documents_BT: Int[Tensor, "B T"]) -> Inputs:
        if not model.training:
            return Inputs(tokens_BT)
        chosen_B = torch.rand(len(tokens_BT), device=tokens_BT.device) < self._config.probability
        may_BT = (documents_BT >= 0) & (tokens_BT >= 0) & (tokens_BT != self._end_id) & chosen_B[:, None]
        shown_BT = None
        if self._config.local_shuffle > 1:
            block = None if model.config.diffusion is None else model.config.block
            place_BT = shuffled(documents_BT, may_BT, self._config.local_shuffle, block)
            tokens_BT = torch.empty_like(tokens_BT).scatter(1, place_BT, tokens_BT)
            shown_BT = early(place_BT)
        if self._config.token_substitution or self._config.token_dropout:
            tokens_BT = self._replaced(tokens_BT, may_BT, model.mask_id)
        noise: Noise = NoNoise()
        if self._config.thought_noise:
            noise = RowNoise(chosen_B * self._config.thought_noise)
        return Inputs(tokens_BT, shown_BT, noise)

    def _replaced(self, tokens_BT: Int[Tensor, "B T"], may_BT: Bool[Tensor, "B T"], mask_id: int) -> Int[Tensor, "B T"]:
        lot_BT = torch.rand(tokens_BT.shape, device=tokens_BT.device)
        lot_BT = torch.where(may_BT, lot_BT, 1.0)
        wrong, missing = self._config.token_substitution, self._config.token_dropout
        if wrong:
            drawn_BT = drawn_without(self._never, self._vocab_size, tokens_BT)
            tokens_BT = torch.where(lot_BT < wrong, drawn_BT, tokens_BT)
        return torch.where((lot_BT >= wrong) & (lot_BT < wrong + missing), mask_id, tokens_BT)


def shuffled(
    documents_BT: Int[Tensor, "B T"], may_BT: Bool[Tensor, "B T"], window: int, block: int | None
) -> Int[Tensor, "B T"]:
    """The column that each token goes to: its own, unless it may move.

    Tokens trade places within windows of so many columns, with others of their document, all orders alike.
    block: None, or the tokens of a block, whose targets (columns 1 to `block` from its begin) trade among themselves.
    """
    column_BT = torch.arange(documents_BT.shape[1], device=documents_BT.device).expand_as(documents_BT)
    begins_BT = column_BT % window == 0
    if block is not None:
        begins_BT = begins_BT | ((column_BT - 1) % block == 0)
    # What must stay is a group of its own, and the next group begins behind it.
    begins_BT = begins_BT | ~may_BT
    begins_BT[:, 1:] |= (documents_BT[:, 1:] != documents_BT[:, :-1]) | ~may_BT[:, :-1]
    group_BT = begins_BT.cumsum(dim=1)
    by_lot_BT = torch.rand(documents_BT.shape, device=documents_BT.device).argsort(dim=1)
    from_BT = by_lot_BT.gather(1, group_BT.gather(1, by_lot_BT).argsort(dim=1, stable=True))
    return torch.empty_like(from_BT).scatter(1, from_BT, column_BT)


def early(place_BT: Int[Tensor, "B T"]) -> Bool[Tensor, "B T"]:
    """Where the token behind a column has moved to it, or before it."""
    column_T = torch.arange(place_BT.shape[1], device=place_BT.device)
    moved_ahead_BT = place_BT < column_T
    return torch.cat([moved_ahead_BT[:, 1:], torch.zeros_like(moved_ahead_BT[:, :1])], dim=1)


def drawn_without(never: Collection[int], vocab_size: int, like_BT: Int[Tensor, "B T"]) -> Int[Tensor, "B T"]:
    """Ids below `vocab_size` but for `never` (ascending), uniformly; one of them may be the token's own."""
    drawn_BT = torch.randint_like(like_BT, vocab_size - len(never))
    for one in never:
        drawn_BT = drawn_BT + (drawn_BT >= one)
    return drawn_BT
