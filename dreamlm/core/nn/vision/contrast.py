"""Which caption belongs to which picture: both come into one space of roles, and are compared there.

    vectors of a picture or of a caption -> noise -> bottleneck D/2 -> their mean, and what each role asks for beside it
    similarity: mean cosine over the roles, by a learned temperature

Shapes: I pictures, J captions, N vectors of one of them, D width, R roles.
"""

import math
from typing import Any, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from dreamlm.core.nn.norm import RMSNorm
from dreamlm.core.nn.pooling import LearnedQueries
from dreamlm.core.nn.vision.encoder import COLDEST, HOTTEST
from dreamlm.core.nn.vision.layer import EPSILON
from dreamlm.core.roles import ROLES


@final
class TokenNoise(nn.Module):
    """In training, some vectors become a learned mask vector, and of the others some numbers are dropped.

    Source: masked as in Devlin et al. 2019, "BERT", dropped as in Srivastava et al. 2014.
    """

    def __init__(self, size: int, mask_probability: float, dropout: float) -> None:
        super().__init__()
        self.mask = nn.Parameter(torch.empty(size).normal_(0.0, 0.3 / math.sqrt(size)))
        self._mask_probability, self.dropout = mask_probability, nn.Dropout(dropout)

    def forward(self, vectors_IND: Float[Tensor, "I N D"]) -> Float[Tensor, "I N D"]:
        if not self.training:
            return vectors_IND
        masked_IN1 = torch.rand(*vectors_IND.shape[:2], 1, device=vectors_IND.device) < self._mask_probability
        dropped: Tensor = self.dropout(vectors_IND)
        return torch.where(masked_IN1, self.mask.to(dropped.dtype), dropped)


@final
class Bottleneck(nn.Module):
    """D -> D/2 -> D, with nothing that goes around it: what does not fit through is not compared."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.norm = RMSNorm(size, EPSILON)
        self.narrow, self.widen = nn.Linear(size, size // 2, bias=False), nn.Linear(size // 2, size, bias=False)

    def forward(self, vectors_IND: Float[Tensor, "I N D"]) -> Float[Tensor, "I N D"]:
        widened: Tensor = self.widen(F.gelu(self.narrow(self.norm(vectors_IND))))
        return widened


@final
class Contrast(nn.Module):
    """Symmetric cross-entropy of pictures among captions and captions among pictures.

    Source: Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision" (CLIP).
    Departs: several vectors for each side instead of one, asked for by queries that both sides share.
    """

    def __init__(self, size: int, mask_probability: float, dropout: float, temperature: float) -> None:
        super().__init__()
        self.caption_noise = TokenNoise(size, mask_probability, dropout)
        self.picture_way, self.caption_way = Bottleneck(size), Bottleneck(size)
        self.roles = LearnedQueries(len(ROLES), size, 1, EPSILON)
        self.log_scale = nn.Parameter(torch.tensor([-math.log(temperature)]))

    def of_pictures(self, vectors_IPD: Float[Tensor, "I P D"]) -> Float[Tensor, "I R D"]:
        """The role vectors of pictures, each of length 1."""
        everywhere_IP = torch.ones(vectors_IPD.shape[:2], dtype=torch.bool, device=vectors_IPD.device)
        return self._roles(self.picture_way(vectors_IPD), everywhere_IP)

    def of_captions(self, hidden_JND: Float[Tensor, "J N D"], real_JN: Bool[Tensor, "J N"]) -> Float[Tensor, "J R D"]:
        """The role vectors of captions, each of length 1.  real_JN: what belongs to the caption; something must."""
        return self._roles(self.caption_way(self.caption_noise(hidden_JND)), real_JN)

    @property
    def scale(self) -> Float[Tensor, " 1"]:
        """What similarities are multiplied with: the inverse of the temperature."""
        bounded: Tensor = _Bounded.apply(self.log_scale, -math.log(HOTTEST), -math.log(COLDEST))  # type: ignore[no-untyped-call]
        return bounded.exp()

    def forward(
        self,
        picture_IRD: Float[Tensor, "I R D"],
        caption_IRD: Float[Tensor, "I R D"],
        same_II: Bool[Tensor, "I I"],
        pair_I: Bool[Tensor, " I"],
    ) -> Float[Tensor, ""]:
        """The mean loss of a pair in nats, over those that are one; 0 without any.

        same_II: whose captions are the same, which are no wrong answers for one another.
        """
        with torch.autocast(picture_IRD.device.type, enabled=False):
            logits_II = self.scale * similarity(picture_IRD.float(), caption_IRD.float())
            itself_II = torch.eye(len(pair_I), dtype=torch.bool, device=pair_I.device)
            asked_II = itself_II | (~same_II & pair_I & pair_I[:, None])
            logits_II = logits_II.masked_fill(~asked_II, -torch.inf)
            right_I = torch.arange(len(pair_I), device=pair_I.device)
            loss_I = (_cross_entropy(logits_II, right_I) + _cross_entropy(logits_II.T, right_I)) / 2
            return (loss_I * pair_I).sum() / pair_I.sum().clamp(min=1)

    def _roles(self, vectors_IND: Tensor, real_IN: Tensor) -> Tensor:
        """What a role asks for, upon the mean of all: so it means something before it has learned to ask."""
        found_IRD = self.roles(vectors_IND, vectors_IND, real_IN[:, None])
        mean_I1D = (vectors_IND * real_IN[:, :, None]).sum(dim=1, keepdim=True) / real_IN.sum(dim=1)[:, None, None]
        return F.normalize((mean_I1D + found_IRD).float(), dim=2)


@final
class _Bounded(torch.autograd.Function):
    """Values between two bounds. Those beyond one still get the gradient whose descent leads back, unlike by `clamp`:
    a step too far would be for ever."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, least: float, most: float) -> Tensor:
        ctx.save_for_backward(values)
        ctx.bounds = least, most
        return values.clamp(least, most)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,), (values,), (least, most) = grad_outputs, ctx.saved_tensors, ctx.bounds
        further_out = ((values < least) & (gradient > 0)) | ((values > most) & (gradient < 0))
        return gradient.masked_fill(further_out, 0.0), None, None


def similarity(picture_IRD: Float[Tensor, "I R D"], caption_JRD: Float[Tensor, "J R D"]) -> Float[Tensor, "I J"]:
    """Mean cosine over the roles, between -1 and 1."""
    return torch.einsum("ird,jrd->ij", picture_IRD, caption_JRD) / picture_IRD.shape[1]


def _cross_entropy(logits_II: Tensor, right_I: Int[Tensor, " I"]) -> Tensor:
    return F.cross_entropy(logits_II, right_I, reduction="none")
