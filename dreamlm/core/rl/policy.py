"""How probable a model finds the tokens of answers: the pass that training differentiates.

Each row is read once, from its opening end-of-document token to its last token but one, without a cache.

Shapes: B rows, T columns, N tokens of all answers of a micro-batch in row order, V vocabulary, W bytes of a support.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dreamlm.core.heads.lm import CHUNK_LOGITS, LanguageModelHead
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.nn.signal import Signal
from dreamlm.core.rl.rollout import Rollout


@dataclass(frozen=True)
class Reading:
    """Answers laid out for one pass over them, on the device of the model."""

    tokens_BT: Int[Tensor, "B T"]
    documents_BT: Int[Tensor, "B T"]
    """0 for what is real, -1 for the padding behind it."""
    answering_BT: Bool[Tensor, "B T"]
    """The columns whose next token belongs to an answer."""
    chosen_N: Int[Tensor, " N"]
    support_NW: Int[Tensor, "N W"] | None
    """Packed bits; None when every token could have been anything but what is never written."""

    def to(self, device: torch.device) -> "Reading":
        support_NW = None if self.support_NW is None else self.support_NW.to(device)
        return Reading(
            self.tokens_BT.to(device),
            self.documents_BT.to(device),
            self.answering_BT.to(device),
            self.chosen_N.to(device),
            support_NW,
        )


@dataclass(frozen=True)
class Opinion:
    """What a model thinks of the chosen tokens."""

    log_probability_N: Float[Tensor, " N"]
    """On the support, at the temperature."""
    entropy_N: Float[Tensor, " N"]
    """In nats, of the distribution on the support."""
    hidden_ND: Float[Tensor, "N D"]
    """The vectors that predict the chosen tokens."""


class PolicyPass:
    """Reads answers with a model; the same for the policy and for the frozen reference."""

    def __init__(self, temperature: float, never: Sequence[int]) -> None:
        self._temperature = temperature
        self._never = tuple(never)

    def lay_out(self, rollouts: Sequence[Rollout]) -> Reading:
        """The answers side by side, padded on the right. At least one."""
        rows = [(*one.answer.prompt_ids, *one.answer.ids) for one in rollouts]
        length = max(map(len, rows)) - 1
        tokens_BT = np.zeros((len(rows), length), dtype=np.int64)
        documents_BT = np.full((len(rows), length), -1, dtype=np.int32)
        answering_BT = np.zeros((len(rows), length), dtype=np.bool_)
        for number, (row, one) in enumerate(zip(rows, rollouts, strict=True)):
            tokens_BT[number, : len(row) - 1] = row[:-1]
            documents_BT[number, : len(row) - 1] = 0
            answering_BT[number, len(one.answer.prompt_ids) - 1 : len(row) - 1] = True
        chosen_N = np.concatenate([one.answer.ids for one in rollouts])
        supports = [one.support_NW for one in rollouts if one.support_NW is not None]
        return Reading(
            torch.from_numpy(tokens_BT),
            torch.from_numpy(documents_BT),
            torch.from_numpy(answering_BT),
            torch.from_numpy(chosen_N.astype(np.int64)),
            torch.from_numpy(np.concatenate(supports)) if supports else None,
        )

    def __call__(self, model: DreamLM, reading: Reading) -> tuple[Opinion, Signal]:
        """The model's opinion of every chosen token, and the signal of the whole pass.

        Never holds the logits of all tokens: they are computed a chunk at a time, and again for the backward pass.
        """
        carry = model.start(len(reading.tokens_BT), records=False)
        ragged = bool((reading.documents_BT < 0).any())
        signal = model(reading.tokens_BT, reading.documents_BT, carry, boundaries=ragged)
        hidden_ND = signal.hidden[reading.answering_BT]
        chunk = max(1, CHUNK_LOGITS // model.vocab_size)
        parts = []
        for begin in range(0, len(hidden_ND), chunk):
            span = slice(begin, begin + chunk)
            support = None if reading.support_NW is None else reading.support_NW[span]
            arguments = (model.head, hidden_ND[span], reading.chosen_N[span], support)
            parts.append(
                checkpoint(self._opinion, *arguments, use_reentrant=False, preserve_rng_state=False)
                if torch.is_grad_enabled()
                else self._opinion(*arguments)
            )
        log_probability_N, entropy_N = (torch.cat(column) for column in zip(*parts, strict=True))
        return Opinion(log_probability_N, entropy_N, hidden_ND), signal

    def _opinion(
        self, head: LanguageModelHead, hidden_CD: Tensor, chosen_C: Tensor, support_CW: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        logits_CV = head.logits(hidden_CD) / self._temperature
        if support_CW is None:
            absent_V = torch.zeros(logits_CV.shape[1], dtype=torch.bool, device=logits_CV.device)
            absent_V[list(self._never)] = True
            logits_CV = logits_CV.masked_fill(absent_V, -torch.inf)
        else:
            logits_CV = logits_CV.masked_fill(~_unpacked(support_CW, logits_CV.shape[1]), -torch.inf)
        log_probability_CV = nn.functional.log_softmax(logits_CV, dim=1)
        # Outside the support 0 * -inf would be NaN, and so would its gradient.
        inside_CV = log_probability_CV.masked_fill(log_probability_CV == -torch.inf, 0.0)
        entropy_C = -(inside_CV.exp() * inside_CV * (log_probability_CV > -torch.inf)).sum(dim=1)
        return log_probability_CV.gather(1, chosen_C[:, None])[:, 0], entropy_C


def _unpacked(support_CW: Int[Tensor, "C W"], vocab_size: int) -> Bool[Tensor, "C V"]:
    """Bits, most significant first, as `numpy.packbits` packs them."""
    shifts_8 = torch.arange(7, -1, -1, device=support_CW.device)
    bits = (support_CW[:, :, None].to(torch.int64) >> shifts_8) & 1
    return bits.flatten(1)[:, :vocab_size].bool()


def per_row(values_N: npt.NDArray[np.float32], lengths: Sequence[int]) -> list[npt.NDArray[np.float32]]:
    """The values of each answer."""
    return np.split(values_N, np.cumsum(lengths)[:-1])
