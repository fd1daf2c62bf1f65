"""The language-model head: logits, and cross-entropy that never holds the logits of a whole batch.

Shapes: N tokens, D width, V vocabulary, C tokens of a chunk.
"""

import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

CHUNK_LOGITS = 1 << 22
"""Logits held at once: about 16 MB in fp32, whatever the batch and the vocabulary."""


class LanguageModelHead(nn.Module):
    """Projects hidden vectors to the vocabulary; the weight may be the token embedding's.

    A finite `soft_cap` bends the logits to soft_cap * tanh(logits / soft_cap).
    Source of the cap: Gemma 2 (Riviere et al. 2024), section 2.
    """

    def __init__(self, weight_VD: Tensor, soft_cap: float = math.inf) -> None:
        super().__init__()
        self.weight = weight_VD
        self.soft_cap = soft_cap

    def forward(
        self,
        hidden_ND: Float[Tensor, "N D"],
        target_N: Int[Tensor, " N"],
        label_smoothing: float,
        importance_N: Float[Tensor, " N"] | None = None,
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Summed training loss with gradient, summed unsmoothed negative log-likelihood without; targets < 0 left out.

        importance_N: what each target counts in both sums; None is 1 for all.
        Cost: three products of N x D x V; the gradient is computed with the loss, so backward only scales it.
        """
        loss, nll = _LinearCrossEntropy.apply(  # type: ignore[no-untyped-call]
            hidden_ND, self.weight, target_N, importance_N, label_smoothing, self.soft_cap, torch.is_grad_enabled()
        )
        return loss, nll

    def logits(self, hidden: Float[Tensor, "*B D"]) -> Float[Tensor, "*B V"]:
        return logits_of(hidden, self.weight, self.soft_cap)

    @torch.no_grad()
    def token_nll(self, hidden_ND: Float[Tensor, "N D"], target_N: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
        """Negative log-likelihood of each target in nats; 0 where the target is negative."""
        parts = []
        for hidden_CD, target_C in zip(*_chunks(self.weight.shape[0], hidden_ND, target_N), strict=True):
            logits_CV = self.logits(hidden_CD)
            real_C = target_C >= 0
            chosen_C = logits_CV.gather(1, target_C.clamp(min=0)[:, None])[:, 0]
            parts.append((logits_CV.logsumexp(dim=1) - chosen_C) * real_C)
        return torch.cat(parts)


class _LinearCrossEntropy(torch.autograd.Function):
    """Cross-entropy of a linear projection, chunk by chunk.

    With smoothing s the target distribution is (1 - s) on the target plus s / V everywhere, as in
    `torch.nn.functional.cross_entropy`.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        target_N: Tensor,
        importance_N: Tensor | None,
        smoothing: float,
        soft_cap: float,
        with_gradient: bool,
    ) -> tuple[Tensor, Tensor]:
        device = hidden_ND.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight_VD.dtype
        vocab_size = weight_VD.shape[0]
        weight = weight_VD.to(dtype)
        loss = torch.zeros((), dtype=torch.float32, device=hidden_ND.device)
        nll = torch.zeros_like(loss)
        grad_hidden_ND = torch.empty_like(hidden_ND) if with_gradient else None
        grad_weight_VD = torch.zeros_like(weight_VD, dtype=torch.float32) if with_gradient else None
        begin = 0
        for hidden_CD, target_C in zip(*_chunks(vocab_size, hidden_ND, target_N), strict=True):
            hidden_CD = hidden_CD.to(dtype)
            counts_C1 = (target_C >= 0).float()[:, None]
            if importance_N is not None:
                counts_C1 = counts_C1 * importance_N[begin : begin + len(target_C), None]
            index_C1 = target_C.clamp(min=0)[:, None]
            logits_CV = capped((hidden_CD @ weight.T).float(), soft_cap)
            normaliser_C1 = logits_CV.logsumexp(dim=1, keepdim=True)
            chosen_C1 = logits_CV.gather(1, index_C1)
            nll_C1 = (normaliser_C1 - chosen_C1) * counts_C1
            nll += nll_C1.sum()
            if smoothing > 0:
                uniform_C1 = (normaliser_C1 - logits_CV.mean(dim=1, keepdim=True)) * counts_C1
                loss += (1 - smoothing) * nll_C1.sum() + smoothing * uniform_C1.sum()
            else:
                loss += nll_C1.sum()
            if grad_hidden_ND is not None and grad_weight_VD is not None:
                # What reaches the uncapped logits: as much as a target counts, and tanh's slope of that.
                passing = counts_C1 if soft_cap == math.inf else counts_C1 * (1 - (logits_CV / soft_cap).square_())
                error_CV = logits_CV.sub_(normaliser_C1).exp_()
                if smoothing > 0:
                    error_CV -= smoothing / vocab_size
                error_CV.scatter_add_(1, index_C1, torch.full_like(normaliser_C1, smoothing - 1))
                error_CV *= passing
                error = error_CV.to(dtype)
                grad_hidden_ND[begin : begin + len(target_C)] = error @ weight
                grad_weight_VD += error.T @ hidden_CD
            begin += len(target_C)
        ctx.save_for_backward(grad_hidden_ND, grad_weight_VD)
        ctx.weight_dtype = weight_VD.dtype
        ctx.mark_non_differentiable(nll)
        return loss, nll

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        scale = grad_outputs[0]
        grad_hidden_ND, grad_weight_VD = ctx.saved_tensors
        return grad_hidden_ND * scale, (grad_weight_VD * scale).to(ctx.weight_dtype), None, None, None, None, None


def logits_of(hidden: Float[Tensor, "*B D"], weight_VD: Tensor, soft_cap: float) -> Float[Tensor, "*B V"]:
    """Capped logits, in fp32."""
    return capped(nn.functional.linear(hidden, weight_VD).float(), soft_cap)


def _chunks(vocab_size: int, hidden_ND: Tensor, target_N: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    rows = max(1, CHUNK_LOGITS // vocab_size)
    return torch.split(hidden_ND, rows), torch.split(target_N, rows)


def capped(logits: Float[Tensor, "*B V"], soft_cap: float) -> Float[Tensor, "*B V"]:
    """Bent to soft_cap * tanh(logits / soft_cap), in place where the cap is finite."""
    return logits if soft_cap == math.inf else soft_cap * (logits / soft_cap).tanh_()
