"""How likely a reference model finds what another one wrote."""

from collections.abc import Callable, Sequence

from dreamlm.core.evaluation.score import no_progress
from dreamlm.core.generation.row import Generation
from dreamlm.core.rl.reference import Reference

BATCHES_AT_ONCE = 8
"""Handed to the reference together, which puts sequences of like length into one batch."""


def log_likelihoods(
    reference: Reference, texts: Sequence[Generation], on_progress: Callable[[int, int], None] = no_progress
) -> list[tuple[float, int]]:
    """For each text the sum of log p(token | prompt and text so far) in nats under the reference, and its tokens.

    The tokens are the reference's own, of prompt and text apart, and without the end of the document; so texts of
    models with different tokenizers compare. What does not fit into the reference's window is read in windows that
    overlap by half of it: every token of a text is scored once.

    on_progress: gets texts done and texts in all.
    """
    prompts = reference.tokenizer.encode_batch([text.prompt for text in texts])
    continuations = reference.tokenizer.encode_batch([text.text for text in texts])
    found: list[tuple[float, int]] = []
    at_once = BATCHES_AT_ONCE * reference.rows
    for begin in range(0, len(texts), at_once):
        asked = [
            (number, piece, scored)
            for number in range(begin, min(begin + at_once, len(texts)))
            for piece, scored in pieces(prompts[number], continuations[number], reference)
        ]
        sums = [0.0] * min(at_once, len(texts) - begin)
        answers = reference.log_probabilities([piece for _, piece, _ in asked])
        for (number, _, scored), log_T in zip(asked, answers, strict=True):
            sums[number - begin] += log_T[-scored:].double().sum().item()
        found += [(total, len(ids)) for total, ids in zip(sums, continuations[begin : begin + at_once], strict=True)]
        on_progress(len(found), len(texts))
    return found


def pieces(prompt: Sequence[int], text: Sequence[int], reference: Reference) -> list[tuple[tuple[int, ...], int]]:
    """Sequences for the reference, and of how many last tokens of each the log-probability counts."""
    ids, scored_to, cut = [*prompt, *text], len(prompt), []
    while scored_to < len(ids):
        # Where the window is full, at most its last half is scored: the first is only read.
        end = min(len(ids), max(reference.room, scored_to + max(1, reference.room // 2)))
        cut.append((reference.opened(ids[:end]), end - scored_to))
        scored_to = end
    return cut
