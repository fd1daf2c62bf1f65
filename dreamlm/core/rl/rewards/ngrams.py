"""What the rewards count in an answer: its own tokens, and how they repeat."""

from collections.abc import Sequence

from dreamlm.core.rl.answer import Answer


def own_tokens(answer: Answer) -> tuple[int, ...]:
    """What was written, without the end-of-document token that may close it (the one that opens the prompt)."""
    return answer.ids[:-1] if answer.ids and answer.ids[-1] == answer.prompt_ids[0] else answer.ids


def ngrams(ids: Sequence[int], length: int) -> list[tuple[int, ...]]:
    """Every run of `length` ids, in order; none when there are fewer ids."""
    return [tuple(ids[start : start + length]) for start in range(len(ids) - length + 1)]


def distinct_share(ids: Sequence[int], length: int) -> float:
    """Different n-grams by all n-grams, in (0, 1]; 1 when there is none, for nothing repeats then.

    Source: Li et al. 2016, "A Diversity-Promoting Objective Function for Neural Conversation Models" (distinct-n).
    """
    grams = ngrams(ids, length)
    return len(set(grams)) / len(grams) if grams else 1.0
