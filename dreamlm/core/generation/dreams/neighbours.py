"""Which tokens of the vocabulary role vectors lie near.

Shapes: X vectors, V tokens, D width of the decoder, C width of dreams, S candidates, K nearest,
G groups of tokens, M tokens of the best groups.
"""

import math
from collections.abc import Mapping
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from dreamlm.core.generation.dreams.values import Neighbour
from dreamlm.core.tokenizer import Tokenizer

DEFINITION = (
    "cosine of the role vector and what a role takes over of the token's embedding, less the mean of that over tokens; "
    "off by up to 0.005 where bf16 is faster than fp32"
)
"""The score of a neighbour, in a sentence."""
SPARE = 3
"""So many more tokens than are asked for are compared by sums in fp32."""
_STRETCH = 1024
"""Directions that are made at once; as many as a processor's cache holds."""
_SELECTED_QUICKLY = 64
"""On a processor, torch selects more quickly among at least so many times as many as are wanted."""


def readable_tokens(tokenizer: Tokenizer) -> dict[int, str]:
    """The tokens that are text by themselves, by id: neither special, nor a piece of a character."""
    texts = tokenizer.decode_batch([[id] for id in range(tokenizer.vocab_size)])
    return {id: text for id, text in enumerate(texts) if text and "\N{REPLACEMENT CHARACTER}" not in text}


@final
class Neighbourhood:
    """Finds the tokens in whose direction a role vector points.

    A role is a weighted mean of what it takes over of the vectors of a segment, so tokens are compared in that form
    (`RolePooling.distinctive`): each as if a role had attended to its embedding alone. What all tokens have in common
    is taken away, because it says nothing of any, and would favour the same few everywhere.

    Source: nearest embeddings by cosine, Mikolov et al. 2013; without their mean, Mu & Viswanath 2018,
    "All-but-the-Top".  Departs: embeddings go through the module's own map, but not through the layers before it,
    which would cost a pass over the vocabulary; and no direction but the mean is taken away.
    """

    def __init__(self, distinctive_VC: Float[Tensor, "V C"], tokens: Mapping[int, str]) -> None:
        """distinctive_VC: of each token that may be named, in the format in which candidates are to be found.

        tokens: their texts by id, in the same order.
        """
        self._ids, self._texts = list(tokens), list(tokens.values())
        parts = [F.normalize(part.float(), dim=1).to(part.dtype) for part in torch.split(distinctive_VC, _STRETCH)]
        self._direction_VC = torch.cat(parts)

    def nearest(self, vectors_XC: Float[Tensor, "X C"], count: int) -> list[tuple[Neighbour, ...]]:
        """For each vector the nearest tokens, the nearest first; all of them when there are no more than `count`.

        Cost: one product of X x C x V in the format of the directions. In bf16 its cosines are rounded as well; those
        of candidates are summed in fp32, so that only the directions' own rounding is in them. Of tokens that are
        equally near but for such rounding, any may be named.
        """
        direction_XC, number = F.normalize(vectors_XC.float(), dim=1), len(self._ids)
        roughly_XV = direction_XC.to(self._direction_VC.dtype) @ self._direction_VC.T
        candidate_XS = _places_of_largest(roughly_XV, min(count + SPARE, number))
        score_XS = (F.embedding(candidate_XS, self._direction_VC).float() * direction_XC[:, None]).sum(dim=2)
        best_XK = score_XS.topk(min(count, number), dim=1)
        nearest_XK = candidate_XS.gather(1, best_XK.indices)
        places, scores = nearest_XK.flatten().tolist(), best_XK.values.flatten().tolist()
        ids, texts = map(self._ids.__getitem__, places), map(self._texts.__getitem__, places)
        named = map(Neighbour, ids, texts, scores)
        return list(zip(*[named] * nearest_XK.shape[1], strict=True))


def _places_of_largest(score_XV: Float[Tensor, "X V"], count: int) -> Int[Tensor, "X S"]:
    """Where the largest of each row are, in any order.

    In a large vocabulary they are looked for in groups, by the group's largest: no more than `count` groups can hold
    any. On a processor that takes two thirds of the time of a selection among all.
    """
    vocabulary, groups = score_XV.shape[1], _SELECTED_QUICKLY * count
    layers, rest = divmod(vocabulary, groups)
    if layers < 2:
        return score_XV.topk(count, dim=1, sorted=False).indices
    largest_XG = score_XV[:, : layers * groups].view(-1, layers, groups).amax(dim=1)
    largest_XG[:, :rest] = torch.maximum(largest_XG[:, :rest], score_XV[:, layers * groups :])
    group_XS = largest_XG.topk(count, dim=1, sorted=False).indices
    place_XM = torch.cat([group_XS + groups * layer for layer in range(layers + 1)], dim=1)
    member_XM = score_XV.gather(1, place_XM.clamp(max=vocabulary - 1)).masked_fill(place_XM >= vocabulary, -math.inf)
    return place_XM.gather(1, member_XM.topk(count, dim=1, sorted=False).indices)
