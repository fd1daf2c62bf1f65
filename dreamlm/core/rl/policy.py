"""How probable a model finds the tokens of answers: the pass that training differentiates.

Each row is read once, from its opening end-of-document token to its last token but one, without a cache.

Shapes: B rows, T columns, N tokens of all answers of a micro-batch in row order, V vocabulary, W bytes of a support.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from dreamlm.core.heads.choice import ChoiceHead, Support
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.nn.signal import Signal
from dreamlm.core.rl.rollout import Rollout, Vocabulary


@dataclass(frozen=True)
class AnswerBatch:
    """Answers laid out for one pass over them."""

    tokens_BT: Int[Tensor, "B T"]
    documents_BT: Int[Tensor, "B T"]
    """0 for what is real, -1 for the padding behind it."""
    answering_BT: Bool[Tensor, "B T"]
    """The columns whose next token belongs to an answer."""
    chosen_N: Int[Tensor, " N"]
    support: Support

    @classmethod
    def of(cls, rollouts: Sequence[Rollout]) -> "AnswerBatch":
        """The answers side by side, padded on the right. At least one."""
        rows = [(*one.answer.prompt_ids, *one.answer.ids) for one in rollouts]
        length = columns_of(rollouts)
        tokens_BT = np.zeros((len(rows), length), dtype=np.int64)
        documents_BT = np.full((len(rows), length), -1, dtype=np.int32)
        answering_BT = np.zeros((len(rows), length), dtype=np.bool_)
        for number, (row, one) in enumerate(zip(rows, rollouts, strict=True)):
            tokens_BT[number, : len(row) - 1] = row[:-1]
            documents_BT[number, : len(row) - 1] = 0
            answering_BT[number, len(one.answer.prompt_ids) - 1 : len(row) - 1] = True
        chosen_N = np.concatenate([one.answer.ids for one in rollouts]).astype(np.int64)
        packed = [one.support_NW for one in rollouts if one.support_NW is not None]
        endless_N = np.concatenate([np.arange(len(one.answer.ids)) < one.endless for one in rollouts])
        support = Support(
            torch.from_numpy(endless_N) if endless_N.any() else None,
            torch.from_numpy(np.concatenate(packed)) if packed else None,
        )
        return cls(
            torch.from_numpy(tokens_BT),
            torch.from_numpy(documents_BT),
            torch.from_numpy(answering_BT),
            torch.from_numpy(chosen_N),
            support,
        )

    def padded(self, length: int) -> "AnswerBatch":
        """With padding behind every row, up to so many columns."""
        room = (0, length - self.tokens_BT.shape[1])
        return replace(
            self,
            tokens_BT=F.pad(self.tokens_BT, room),
            documents_BT=F.pad(self.documents_BT, room, value=-1),
            answering_BT=F.pad(self.answering_BT, room),
        )

    def to(self, device: torch.device) -> "AnswerBatch":
        return AnswerBatch(
            self.tokens_BT.to(device),
            self.documents_BT.to(device),
            self.answering_BT.to(device),
            self.chosen_N.to(device),
            self.support.to(device),
        )


def columns_of(rollouts: Sequence[Rollout]) -> int:
    """How many columns their batch has."""
    return max(len(one.answer.prompt_ids) + len(one.answer.ids) for one in rollouts) - 1


@dataclass(frozen=True)
class Opinion:
    """What a model thinks of the chosen tokens."""

    log_probability_N: Float[Tensor, " N"]
    """On the support, at the temperature: what the ratio to an older policy is made of."""
    whole_N: Float[Tensor, " N"]
    """Among all tokens, at the temperature: what the distance from the reference is made of. On a support that has
    shrunk to one token every model is equal."""
    entropy_N: Float[Tensor, " N"] | None
    """In nats, of the distribution on the support; None where nobody asked."""
    hidden_ND: Float[Tensor, "N D"]
    """The vectors that predict the chosen tokens."""


class Policy(nn.Module):
    """A model that reads answers; the one that learns, or the frozen reference."""

    def __init__(self, model: DreamLM, temperature: float, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.model = model
        self.choice = ChoiceHead(model.head, temperature, vocabulary.never, vocabulary.end)

    def forward(self, answers: AnswerBatch, entropies: bool = True) -> tuple[Opinion, Signal]:
        """The model's opinion of every chosen token, and the signal of the whole pass."""
        carry = self.model.start(len(answers.tokens_BT), records=False)
        ragged = bool((answers.documents_BT != 0).any())
        signal = self.model(answers.tokens_BT, answers.documents_BT, carry, boundaries=ragged)
        hidden_ND = signal.hidden[answers.answering_BT]
        log_probability_N, whole_N, entropy_N = self.choice(hidden_ND, answers.chosen_N, answers.support, entropies)
        return Opinion(log_probability_N, whole_N, entropy_N, hidden_ND), signal
