"""The head that says how probable chosen tokens are, on what could have been chosen instead.

Shapes: N tokens, D width, V vocabulary, W bytes of a packed support, C tokens of a chunk.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from dreamlm.core.generation.sampler import COLDEST
from dreamlm.core.heads.lm import CHUNK_LOGITS, LanguageModelHead, capped

KEPT_LOGITS = 1 << 24
"""Logits that may wait for the backward pass, 64 MB in fp32; where there are more, it computes them again."""


@dataclass(frozen=True)
class Support:
    """What each token could have been, beside what no token ever is."""

    endless_N: Bool[Tensor, " N"] | None = None
    """Tokens that could not have been the end of the document; None when every token could."""
    packed_NW: Int[Tensor, "N W"] | None = None
    """One bit per vocabulary entry, most significant first, the end's too; None when nothing else is ruled out."""

    def part(self, span: slice) -> "Support":
        endless_N, packed_NW = self.endless_N, self.packed_NW
        return Support(None if endless_N is None else endless_N[span], None if packed_NW is None else packed_NW[span])

    def to(self, device: torch.device) -> "Support":
        endless_N, packed_NW = self.endless_N, self.packed_NW
        return Support(
            None if endless_N is None else endless_N.to(device), None if packed_NW is None else packed_NW.to(device)
        )


class ChoiceHead(nn.Module):
    """Log-probability of each chosen token, on its support and among all tokens, and the entropy; with gradients.

    The weight is the language-model head's own; it is a parameter here too because ZeRO fetches the weights of a
    module when that module runs.
    """

    def __init__(self, head: LanguageModelHead, temperature: float, never: Sequence[int], end: int) -> None:
        """never: tokens that are in no support. end: the token that ends a document."""
        super().__init__()
        self.weight = head.weight
        self._softmax = _Softmax(head.soft_cap, max(temperature, COLDEST), tuple(never), end)

    def forward(
        self,
        hidden_ND: Float[Tensor, "N D"],
        chosen_N: Int[Tensor, " N"],
        support: Support,
        entropies: bool = True,
    ) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"], Float[Tensor, " N"] | None]:
        """Log-probability on the support, log-probability among all but `never`, and entropy on the support, in nats.

        At the temperature. entropies: False spares their cost, and they are None.
        Cost: three products of N x D x V with gradients, a fourth where more than KEPT_LOGITS would have to wait.
        """
        on_support_N, whole_N, entropy_N = _Choose.apply(  # type: ignore[no-untyped-call]
            hidden_ND, self.weight, chosen_N, support, self._softmax, entropies, torch.is_grad_enabled()
        )
        return on_support_N, whole_N, entropy_N if entropies else None


@dataclass(frozen=True)
class _Softmax:
    """How hidden vectors become probabilities."""

    soft_cap: float
    temperature: float
    never: tuple[int, ...]
    end: int

    def logits(self, hidden_CD: Tensor, weight_VD: Tensor) -> Float[Tensor, "C V"]:
        """At the temperature, in fp32; -inf where no token ever is."""
        logits_CV = capped((hidden_CD @ weight_VD.T).float(), self.soft_cap).div_(self.temperature)
        if self.never:
            logits_CV[:, list(self.never)] = -torch.inf
        return logits_CV

    def normalisers(self, logits_CV: Tensor, support: Support) -> tuple[Float[Tensor, " C"], Float[Tensor, " C"]]:
        """Log of the sums of exponentials: on the support, and among all."""
        if support.packed_NW is not None:
            absent_CV = _unset(support.packed_NW, logits_CV.shape[1])
            return logits_CV.masked_fill(absent_CV, -torch.inf).logsumexp(dim=1), logits_CV.logsumexp(dim=1)
        if support.endless_N is None:
            normaliser_C = logits_CV.logsumexp(dim=1)
            return normaliser_C, normaliser_C
        end_C = logits_CV[:, self.end].clone()
        logits_CV[:, self.end].masked_fill_(support.endless_N, -torch.inf)
        on_support_C = logits_CV.logsumexp(dim=1)
        logits_CV[:, self.end] = end_C
        whole_C = torch.where(support.endless_N, torch.logaddexp(on_support_C, end_C), on_support_C)
        return on_support_C, whole_C

    def probabilities(self, log_CV: Tensor, support: Support) -> Float[Tensor, "C V"]:
        """Of the logits less their normaliser on the support; 0 outside."""
        probability_CV = log_CV.exp()
        if support.packed_NW is not None:
            return probability_CV.masked_fill_(_unset(support.packed_NW, log_CV.shape[1]), 0.0)
        if support.endless_N is not None:
            probability_CV[:, self.end].masked_fill_(support.endless_N, 0.0)
        return probability_CV

    def weighed(self, value_CV: Tensor, probability_CV: Tensor) -> Float[Tensor, "C V"]:
        """Values times probabilities, in place; 0 where no token ever is and a value may be infinite."""
        value_CV *= probability_CV
        if self.never:
            value_CV[:, list(self.never)] = 0.0
        return value_CV

    def grad_of_choice(
        self,
        probability_CV: Tensor,
        log_CV: Tensor,
        support: Support,
        on_support_C: Tensor,
        on_whole_C: Tensor,
        shift_C: Tensor,
    ) -> Float[Tensor, "C V"]:
        """-p_v times what reaches the log-probability on the support, -w_v times what reaches the one among all.

        In the memory of `probability_CV`. shift_C: difference of the normalisers, so that w = exp(log + shift).
        """
        if support.packed_NW is not None:
            of_whole_CV = (log_CV + shift_C[:, None]).exp_().mul_(on_whole_C[:, None])
            return probability_CV.mul_(-on_support_C[:, None]).sub_(of_whole_CV)
        # Both are the same but for the end: where it is ruled out, the others share its probability.
        grad_CV = probability_CV.mul_(-(on_support_C + on_whole_C * shift_C.exp())[:, None])
        if support.endless_N is not None:
            of_end_C = (log_CV[:, self.end] + shift_C).exp() * on_whole_C
            grad_CV[:, self.end] -= torch.where(support.endless_N, of_end_C, 0.0)
        return grad_CV

    def uncapped(self, grad_CV: Tensor, log_CV: Tensor, normaliser_C: Tensor) -> Tensor:
        """The gradient that reaches the products, of the one that reaches the logits; in place."""
        grad_CV /= self.temperature
        if self.soft_cap != torch.inf:
            bent_CV = (log_CV + normaliser_C[:, None]).mul_(self.temperature / self.soft_cap).square_()
            grad_CV *= 1 - bent_CV.masked_fill_(bent_CV == torch.inf, 1.0)
        return grad_CV


class _Choose(torch.autograd.Function):
    """A chunk at a time, forward and backward.

    With p on the support and w among all, the gradient of the three at logit v is [v chosen] - p_v, [v chosen] - w_v,
    and -p_v (log p_v + entropy).
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        chosen_N: Tensor,
        support: Support,
        softmax: _Softmax,
        entropies: bool,
        with_gradient: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        device = hidden_ND.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight_VD.dtype
        weight = weight_VD.to(dtype)
        kept: list[Tensor] = []
        keeps = with_gradient and hidden_ND.shape[0] * weight.shape[0] <= KEPT_LOGITS
        parts = []
        for span in _spans(hidden_ND, weight):
            logits_CV = softmax.logits(hidden_ND[span].to(dtype), weight)
            chosen_C, part = chosen_N[span], support.part(span)
            normaliser_C, whole_C = softmax.normalisers(logits_CV, part)
            picked_C = logits_CV.gather(1, chosen_C[:, None])[:, 0]
            log_CV = logits_CV.sub_(normaliser_C[:, None])
            entropy_C = torch.zeros_like(picked_C)
            if entropies:
                probability_CV = softmax.probabilities(log_CV, part)
                entropy_C = -softmax.weighed(probability_CV, log_CV).sum(dim=1)
            parts.append((picked_C - normaliser_C, picked_C - whole_C, entropy_C, normaliser_C, whole_C))
            if keeps:
                kept.append(log_CV)
        on_support_N, whole_N, entropy_N, *normalisers = (torch.cat(column) for column in zip(*parts, strict=True))
        ctx.save_for_backward(hidden_ND, weight_VD, chosen_N, entropy_N, *normalisers, *kept)
        ctx.support, ctx.softmax, ctx.dtype = support, softmax, dtype
        return on_support_N, whole_N, entropy_N

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        hidden_ND, weight_VD, chosen_N, entropy_N, normaliser_N, whole_N, *kept = ctx.saved_tensors
        softmax: _Softmax = ctx.softmax
        weight = weight_VD.to(ctx.dtype)
        grad_hidden_ND = torch.empty_like(hidden_ND)
        grad_weight_VD = torch.zeros_like(weight_VD, dtype=torch.float32)
        for number, span in enumerate(_spans(hidden_ND, weight)):
            hidden_CD, support, normaliser_C = hidden_ND[span].to(ctx.dtype), ctx.support.part(span), normaliser_N[span]
            log_CV = kept[number] if kept else softmax.logits(hidden_CD, weight).sub_(normaliser_C[:, None])
            on_support_C, on_whole_C, on_entropy_C = (one[span] for one in grad_outputs)
            probability_CV = softmax.probabilities(log_CV, support)
            of_entropy_CV = None
            if on_entropy_C.any():
                surprise_CV = log_CV + entropy_N[span][:, None]
                of_entropy_CV = softmax.weighed(surprise_CV, probability_CV).mul_(on_entropy_C[:, None])
            grad_CV = softmax.grad_of_choice(
                probability_CV, log_CV, support, on_support_C, on_whole_C, normaliser_C - whole_N[span]
            )
            if of_entropy_CV is not None:
                grad_CV -= of_entropy_CV
            grad_CV.scatter_add_(1, chosen_N[span][:, None], (on_support_C + on_whole_C)[:, None])
            grad = softmax.uncapped(grad_CV, log_CV, normaliser_C).to(ctx.dtype)
            grad_hidden_ND[span] = grad @ weight
            grad_weight_VD += grad.T @ hidden_CD
        return grad_hidden_ND, grad_weight_VD.to(weight_VD.dtype), None, None, None, None, None


def _spans(hidden_ND: Tensor, weight_VD: Tensor) -> list[slice]:
    size = max(1, CHUNK_LOGITS // weight_VD.shape[0])
    return [slice(begin, begin + size) for begin in range(0, hidden_ND.shape[0], size)]


def _unset(support_CW: Int[Tensor, "C W"], vocab_size: int) -> Bool[Tensor, "C V"]:
    """Where bits are 0; most significant first, as `numpy.packbits` packs them. Bytes stay bytes: there are many."""
    bits_8 = 1 << torch.arange(7, -1, -1, dtype=torch.uint8, device=support_CW.device)
    return ((support_CW[:, :, None] & bits_8) == 0).flatten(1)[:, :vocab_size]
