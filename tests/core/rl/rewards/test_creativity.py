"""Creativity is variety within an answer, of n-grams that are its own."""

import pytest
from answers_by_hand import END, IDS, answer
from hypothesis import given
from hypothesis import strategies as st

from dreamlm.core.rl.rewards.creativity import creativity, nothing_seen


@pytest.mark.parametrize(
    ("prompt", "said", "value"),
    [
        ([], [2, 3, 4, 5], 1.0),
        ([], [2, 2, 2, 2, 2], (1 / 5 + 1 / 4) / 2),
        ([], [2, 3, 2, 3, 2, 3], (2 / 6 + 2 / 5) / 2),
        ([2, 3, 4, 5], [2, 3, 4, 5], 0.0),
        ([9, 2, 3, 4, 5], [2, 3, 4, 5, 6], 1 / 2),
        ([2, 3, 4], [2, 3, 4, 5], 1.0),
        ([], [2, 3, 4], 0.0),
        ([], [], 0.0),
    ],
    ids=["varied", "one token", "two in turn", "copy", "half a copy", "three in common", "too short", "empty"],
)
def test_it_is_distinct_n_times_novelty(prompt: list[int], said: list[int], value: float) -> None:
    assert creativity([answer(prompt, said)]) == pytest.approx((value,))


def test_the_closing_token_counts_nowhere() -> None:
    assert creativity([answer([], [2, 3, 4, END]), answer([], [2, 3, 4, 5, END])]) == (0.0, 1.0)


def test_what_the_training_text_has_is_not_the_answers_own() -> None:
    known = {(2, 3, 4, 5), (3, 4, 5, 6)}

    def seen(ids: list[int]) -> list[bool]:
        return [tuple(ids[start : start + 4]) in known for start in range(len(ids) - 3)]

    assert creativity([answer([], [2, 3, 4, 5, 6, 7, 8])], seen) == pytest.approx((2 / 4,))
    # The first 4-gram is known to both and is taken off once.
    assert creativity([answer([2, 3, 4, 5], [2, 3, 4, 5, 6, 7, 8])], seen) == pytest.approx((2 / 4,))


def test_an_index_of_other_ngrams_is_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        creativity([answer([], [2, 3, 4, 5, 6])], lambda ids: nothing_seen(ids)[:-1])


@given(st.lists(st.tuples(IDS, IDS), max_size=6), st.randoms(use_true_random=False))
def test_it_lies_between_its_bounds_whatever_the_answers_beside_it(pairs: list, draw: object) -> None:
    answers = [answer(prompt, said) for prompt, said in pairs]
    together = creativity(answers)
    assert all(0 <= found <= 1 for found in together)
    shuffled = draw.sample(range(len(answers)), len(answers))
    assert creativity([answers[number] for number in shuffled]) == tuple(together[number] for number in shuffled)


@given(st.lists(st.integers(2, 257), min_size=4, max_size=30))
def test_a_repeated_answer_of_its_own_is_less_creative(said: list[int]) -> None:
    once, twice = creativity([answer([], said), answer([], said + said)])
    assert twice < once


@given(IDS, IDS)
def test_to_know_more_makes_nobody_more_creative(prompt: list[int], said: list[int]) -> None:
    (free,) = creativity([answer(prompt, said)])
    (known,) = creativity([answer(prompt, said)], lambda ids: [gram % 2 == 0 for gram in ids[:-3]])
    assert known <= free
