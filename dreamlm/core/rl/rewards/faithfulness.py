"""Faithfulness: does an answer speak of what it was asked?"""

import math
from collections.abc import Sequence
from itertools import chain

from dreamlm.core.rl.answer import Answer
from dreamlm.core.rl.reference import Reference
from dreamlm.core.rl.rewards.ngrams import own_tokens


def faithfulness(answers: Sequence[Answer], reference: Reference) -> tuple[float, ...]:
    """tanh((log p(prompt | answer) - log p(prompt)) / prompt tokens), in nats, so within [-1, 1].

    Both terms are the reference's: of the prompt behind the answer in one document, and of the prompt that opens a
    document. Above 0 the answer makes the prompt likelier, below 0 less likely. An empty answer, or an empty prompt,
    has 0. Where both do not fit into the window, the prompt loses its oldest tokens, the same in both terms, down to
    half of the window; then the answer loses its oldest.

    Rewards falsely: a copy of the prompt, which makes it likelier than any answer does. Nothing is taken off for that
    here: `creativity` gives a copy 0. Words of the prompt in another order pass there; `coherence` gives them little.
    Source: the backward model of Li et al. 2016, "A Diversity-Promoting Objective Function for Neural Conversation
    Models" (maximum mutual information).  Departs: one model reads both ways, relative to the prompt alone.
    Cost: the reference reads every prompt once alone and once behind its answer.
    """
    written = [own_tokens(answer) for answer in answers]
    prompts = [
        _newest(answer.prompt_ids[1:], max(reference.room - len(ids), reference.room // 2))
        for answer, ids in zip(answers, written, strict=True)
    ]
    given = [reference.opened(ids + prompt) for ids, prompt in zip(written, prompts, strict=True)]
    alone = [reference.opened(prompt) for prompt in prompts]
    sequences = list(dict.fromkeys(chain(given, alone)))
    known = dict(zip(sequences, reference.log_probabilities(sequences), strict=True))
    return tuple(
        math.tanh((known[behind][-len(prompt) :].double() - known[opening].double()).mean().item()) if prompt else 0.0
        for prompt, behind, opening in zip(prompts, given, alone, strict=True)
    )


def _newest(ids: tuple[int, ...], most: int) -> tuple[int, ...]:
    return ids[max(0, len(ids) - most) :]
