"""Which tokens of the vocabulary role vectors lie near.

Shapes: X vectors, V tokens, D width of the decoder, C width of dreams, S candidates, K nearest.
"""

from collections.abc import Mapping, Sequence
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from dreamlm.core.generation.dreams.values import Neighbour
from dreamlm.core.tokenizer import Tokenizer

DEFINITION = (
    "cosine of the role vector and what a role takes over of the token's embedding, less the mean of that over tokens"
)
"""The score of a neighbour, in a sentence."""
SPARE = 11
"""So many more tokens than are asked for are compared exactly."""


def readable_tokens(tokenizer: Tokenizer) -> dict[int, str]:
    """The tokens that are text by themselves, by id: neither special, nor a piece of a character."""
    texts = {id: tokenizer.decode([id]) for id in range(tokenizer.vocab_size)}
    return {id: text for id, text in texts.items() if text and "\N{REPLACEMENT CHARACTER}" not in text}


@final
class Neighbourhood:
    """Finds the tokens in whose direction a role vector points.

    A role is a weighted mean of what it takes over of the vectors of a segment (`RolePooling.content`), so tokens are
    compared in that form: each as if a role had attended to its embedding alone. What all tokens have in common is
    taken away, because it says nothing of any, and would favour the same few everywhere.

    Source: nearest embeddings by cosine, Mikolov et al. 2013; without their mean, Mu & Viswanath 2018,
    "All-but-the-Top".  Departs: embeddings go through the module's own map, but not through the layers before it,
    which would cost a pass over the vocabulary; and no direction but the mean is taken away.
    """

    def __init__(
        self, content_VC: Float[Tensor, "V C"], tokens: Mapping[int, str], quick: torch.dtype = torch.float32
    ) -> None:
        """content_VC: what a role takes over of each token's embedding.  tokens: those that may be named, by id.

        quick: in what candidates are found before fp32 decides among them.
        """
        self._ids, self._tokens = list(tokens), tokens
        named_VC = content_VC[self._ids].float()
        self._direction_VC = F.normalize(named_VC - named_VC.mean(dim=0), dim=1)
        self._quick_VC = self._direction_VC.to(quick)

    def nearest(self, vectors_XC: Float[Tensor, "X C"], count: int) -> list[tuple[Neighbour, ...]]:
        """For each vector the nearest tokens, the nearest first; all of them when there are no more than `count`.

        Cost: one product of X x C x V, `quick`. In bf16 a cosine of 0.3 is off by up to 0.001, so a token can be missed
        only where more than `SPARE` others have its score to twice that.
        """
        direction_XC, number = F.normalize(vectors_XC.float(), dim=1), len(self._ids)
        roughly_XV = direction_XC.to(self._quick_VC.dtype) @ self._quick_VC.T
        candidate_XS = roughly_XV.topk(min(count + SPARE, number), dim=1, sorted=False).indices
        score_XS = (F.embedding(candidate_XS, self._direction_VC) * direction_XC[:, None]).sum(dim=2)
        best_XK = score_XS.topk(min(count, number), dim=1)
        nearest_XK = candidate_XS.gather(1, best_XK.indices)
        found = zip(nearest_XK.tolist(), best_XK.values.tolist(), strict=True)
        return [self._named(places, scores) for places, scores in found]

    def _named(self, places: Sequence[int], scores: Sequence[float]) -> tuple[Neighbour, ...]:
        ids = [self._ids[place] for place in places]
        return tuple(Neighbour(id, self._tokens[id], score) for id, score in zip(ids, scores, strict=True))
