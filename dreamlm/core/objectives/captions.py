"""Captions of pictures: found in a batch, read without a look at any picture, and compared with all of them.

A caption is the text behind a picture's places, up to the next picture or the end of its document. To be compared it
goes through the decoder once more, alone and behind one blank place: in the batch itself its vectors have seen the
picture, and would give the answer away.

Shapes: B rows, X tokens of a row, I pictures, N tokens of a caption, R roles, D width.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.nn.signal import Signal
from dreamlm.core.nn.vision.contrast import Contrast
from dreamlm.core.nn.vision.encoder import CONTRASTIVE
from dreamlm.core.nn.vision.view import Blank, Seen, Sight, View
from dreamlm.core.nn.vision.vision import Vision

NO_TOKEN = -1


@dataclass(frozen=True)
class Captions:
    """Texts side by side."""

    tokens_IN: Int[Tensor, "I N"]
    """NO_TOKEN behind the last of each."""

    @property
    def real_IN(self) -> Bool[Tensor, "I N"]:
        return self.tokens_IN >= 0

    @property
    def there_I(self) -> Bool[Tensor, " I"]:
        """Which pictures have any caption."""
        return self.real_IN.any(dim=1)

    @property
    def same_II(self) -> Bool[Tensor, "I I"]:
        """Which captions are the same, token by token."""
        return (self.tokens_IN[:, None] == self.tokens_IN).all(dim=2)


def contrasted(
    model: DreamLM,
    view: View,
    sight: Sight | None,
    tokens_BX: Int[Tensor, "B X"],
    documents_BX: Int[Tensor, "B X"],
) -> dict[str, Float[Tensor, ""]]:
    """The contrastive loss, as a mean over pairs of a picture and its caption; nothing where none is learned.

    view: what `model.look(sight)` gave.  A batch with less than two pairs has the loss 0; wrong answers come from the
    batch alone, so each micro-batch of each process is compared within itself. Pairs of one caption, or of one picture,
    are no wrong answers for one another.
    """
    if not model.vision.compares:
        return {}
    if sight is None:
        return {CONTRASTIVE: torch.zeros((), device=tokens_BX.device)}
    assert isinstance(view, Seen), "the pictures were not looked at"
    captions = captions_in(sight, tokens_BX, documents_BX, longest_caption(model))
    _, contrast = comparing(model)
    same_II = captions.same_II | sight.same_II
    roles = contrast.of_pictures(view.vectors_IPD), roles_of_captions(model, captions)
    mean: Tensor = contrast(*roles, same_II, captions.there_I)
    return {CONTRASTIVE: mean}


def comparing(model: DreamLM) -> tuple[Vision, Contrast]:
    """What a model sees with, and compares by; it has both."""
    vision = model.vision
    assert isinstance(vision, Vision), "a model without eyes"
    assert vision.contrast is not None, "a model without a contrastive loss"
    return vision, vision.contrast


def captions_in(sight: Sight, tokens_BX: Int[Tensor, "B X"], documents_BX: Int[Tensor, "B X"], most: int) -> Captions:
    """What is said of each picture, at most so many tokens; nothing where the row ends before its caption begins."""
    pictures, column_X = len(sight.pixels_IHW), torch.arange(tokens_BX.shape[1], device=tokens_BX.device)
    real_BX = documents_BX >= 0
    last_BX = torch.where(real_BX & (sight.of_BX >= 0), column_X, -1).cummax(dim=1).values
    behind_BX = last_BX.clamp(min=0)
    owned_BX = real_BX & (tokens_BX >= 0) & (last_BX >= 0) & (documents_BX.gather(1, behind_BX) == documents_BX)
    owner_Y = sight.of_BX.gather(1, behind_BX)[owned_BX].long()
    order_Y = owner_Y.argsort(stable=True)
    owner_Y, token_Y = owner_Y[order_Y], tokens_BX[owned_BX][order_Y]
    count_I = owner_Y.bincount(minlength=pictures)
    rank_Y = torch.arange(len(owner_Y), device=owner_Y.device) - (count_I.cumsum(0) - count_I)[owner_Y]
    longest = min(most, max(1, int(count_I.max())))
    tokens_IN = tokens_BX.new_full((pictures, longest), NO_TOKEN)
    kept_Y = rank_Y < longest
    tokens_IN[owner_Y[kept_Y], rank_Y[kept_Y]] = token_Y[kept_Y]
    return Captions(tokens_IN)


def longest_caption(model: DreamLM) -> int:
    """Tokens of a caption that are compared: what fits into a segment behind a blank place."""
    return max(1, model.config.segment - 1)


def roles_of_captions(model: DreamLM, captions: Captions) -> Float[Tensor, "I R D"]:
    """The role vectors of captions; of a picture without any, those of a blank place."""
    real_IN, blank_I1 = captions.real_IN, torch.ones_like(captions.there_I)[:, None]
    alone_IX = F.pad(captions.tokens_IN, (1, 0), value=NO_TOKEN)
    documents_IX = torch.where(torch.cat([blank_I1, real_IN], dim=1), 0, -1)
    pooled_IX = torch.cat([~captions.there_I[:, None], real_IN], dim=1)
    vision, contrast = comparing(model)
    carry = model.start(len(alone_IX), records=False)
    signal: Signal = model(alone_IX, documents_IX, carry, view=Blank(vision.blank))
    return contrast.of_captions(signal.hidden, pooled_IX)
