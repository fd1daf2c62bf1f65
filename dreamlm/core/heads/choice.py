"""The head that says how probable chosen tokens are, on what could have been chosen instead.

Shapes: N tokens, D width, V vocabulary, W bytes of a packed support, C tokens of a chunk.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dreamlm.core.heads.lm import CHUNK_LOGITS, LanguageModelHead, logits_of


class ChoiceHead(nn.Module):
    """Log-probability of each chosen token, on its support and among all tokens, and the entropy; with gradients.

    Never holds the logits of all tokens: they are computed a chunk at a time, and again for the backward pass. The
    weight is the language-model head's own; it is a parameter here too because ZeRO fetches the weights of a module
    when that module runs.
    """

    def __init__(self, head: LanguageModelHead, temperature: float, never: Sequence[int]) -> None:
        """never: tokens that are in no support."""
        super().__init__()
        self.weight = head.weight
        self._soft_cap, self._temperature, self._never = head.soft_cap, temperature, list(never)

    def forward(
        self, hidden_ND: Float[Tensor, "N D"], chosen_N: Int[Tensor, " N"], support_NW: Int[Tensor, "N W"] | None
    ) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"], Float[Tensor, " N"]]:
        """Log-probability on the support, log-probability among all but `never`, and entropy on the support, in nats.

        At the temperature. A support of None is all but `never`.
        """
        size = max(1, CHUNK_LOGITS // self.weight.shape[0])
        parts = []
        for begin in range(0, len(hidden_ND), size):
            span = slice(begin, begin + size)
            inputs = (hidden_ND[span], chosen_N[span], None if support_NW is None else support_NW[span])
            if torch.is_grad_enabled():
                parts.append(checkpoint(self._chunk, *inputs, use_reentrant=False, preserve_rng_state=False))
            else:
                parts.append(self._chunk(*inputs))
        log_probability_N, whole_N, entropy_N = (torch.cat(column) for column in zip(*parts, strict=True))
        return log_probability_N, whole_N, entropy_N

    def _chunk(self, hidden_CD: Tensor, chosen_C: Tensor, support_CW: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        logits_CV = logits_of(hidden_CD, self.weight, self._soft_cap) / self._temperature
        log_probability_CV = nn.functional.log_softmax(
            logits_CV.masked_fill(self._absent(logits_CV), -torch.inf), dim=1
        )
        chosen_C1 = chosen_C[:, None]
        whole_C = log_probability_CV.gather(1, chosen_C1)[:, 0]
        if support_CW is not None:
            absent_CV = _unset(support_CW, logits_CV.shape[1])
            log_probability_CV = nn.functional.log_softmax(logits_CV.masked_fill(absent_CV, -torch.inf), dim=1)
        # Outside the support 0 * -inf would be NaN, and so would its gradient.
        inside_CV = log_probability_CV.masked_fill(log_probability_CV == -torch.inf, 0.0)
        entropy_C = -(inside_CV.exp() * inside_CV).sum(dim=1)
        return log_probability_CV.gather(1, chosen_C1)[:, 0], whole_C, entropy_C

    def _absent(self, logits_CV: Tensor) -> Bool[Tensor, "1 V"]:
        absent_V = torch.zeros(logits_CV.shape[1], dtype=torch.bool, device=logits_CV.device)
        absent_V[self._never] = True
        return absent_V[None]


def _unset(support_CW: Int[Tensor, "C W"], vocab_size: int) -> Bool[Tensor, "C V"]:
    """Where bits are 0; most significant first, as `numpy.packbits` packs them. Bytes stay bytes: there are many."""
    bits_8 = 1 << torch.arange(7, -1, -1, dtype=torch.uint8, device=support_CW.device)
    return ((support_CW[:, :, None] & bits_8) == 0).flatten(1)[:, :vocab_size]
