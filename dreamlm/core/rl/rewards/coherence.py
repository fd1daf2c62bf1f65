"""Coherence: is an answer a likely text that does not repeat itself?"""

import math
from collections.abc import Sequence

from dreamlm.core.rl.answer import Answer
from dreamlm.core.rl.reference import Reference
from dreamlm.core.rl.rewards.ngrams import distinct_share, own_tokens

GRAM_LENGTH = 3
"""Of the n-grams whose repetition counts."""


def coherence(answers: Sequence[Answer], reference: Reference) -> tuple[float, ...]:
    """exp(mean log p(token | prompt and answer so far)) * (1 - repetition), within [0, 1].

    The first factor is the inverse of the answer's perplexity under the reference; the end-of-document token counts
    where it was written. `repetition` is the share of the answer's 3-grams that occurred in it before. An answer
    without a single token has 0. Where prompt and answer do not fit into the window, the oldest tokens are cut off.

    Rewards falsely: what the reference can say by heart, and a text that goes round in circles: the likelihood of each
    round rises, and the second factor, which falls with every round, has to outweigh it.
    """
    found = reference.log_probabilities([reference.opened(answer.prompt_ids[1:] + answer.ids) for answer in answers])
    return tuple(
        math.exp(log_T[-len(answer.ids) :].double().mean().item()) * distinct_share(own_tokens(answer), GRAM_LENGTH)
        if answer.ids
        else 0.0
        for answer, log_T in zip(answers, found, strict=True)
    )
