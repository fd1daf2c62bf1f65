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
    here; `creativity` counts the copied 4-grams, and a mix of both gives a copy less than an answer.
    Source: the backward model of Li et al. 2016, "A Diversity-Promoting Objective Function for Neural Conversation
    Models" (maximum mutual information).  Departs: one model reads both ways, relative to the prompt alone.
    Cost: the reference reads every prompt once alone and once behind its answer.
    """
    cuts = [_cut(answer, reference.room) for answer in answers]
    given = [reference.opened(written + prompt) for prompt, written in cuts]
    alone = [reference.opened(prompt) for prompt, _ in cuts]
    sequences = list(dict.fromkeys(chain(given, alone)))
    known = dict(zip(sequences, reference.log_probabilities(sequences), strict=True))
    return tuple(
        math.tanh((known[behind][-len(prompt) :].double() - known[opening].double()).mean().item()) if prompt else 0.0
        for (prompt, _), behind, opening in zip(cuts, given, alone, strict=True)
    )


def _cut(answer: Answer, room: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The tokens of prompt and answer that fit into `room` together, the newest of both."""
    prompt, written = answer.prompt_ids[1:], own_tokens(answer)
    most = max(room - len(written), room // 2)
    prompt = prompt[max(0, len(prompt) - most) :]
    return prompt, written[max(0, len(written) - (room - len(prompt))) :]
