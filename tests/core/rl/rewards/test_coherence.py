"""Coherence is the inverse perplexity of an answer, less what it repeats."""

import math
from statistics import mean

import pytest
from answers_by_hand import END, IDS, LENGTH, answer, flat, naive_logs, sharp
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamlm.core.rl.rewards.coherence import coherence

PROMPT, SAID = [7, 30, 12, 99], [45, 30, 200, 17]


def inverse_perplexity(sequence: list[int], last: int) -> float:
    return math.exp(mean(naive_logs(sharp(), sequence, last)))


def test_it_is_the_inverse_perplexity_given_the_prompt() -> None:
    (found,) = coherence([answer(PROMPT, SAID)], sharp())
    assert found == pytest.approx(inverse_perplexity([END, *PROMPT, *SAID], 4), rel=1e-4)


def test_the_end_counts_where_it_was_written() -> None:
    (found,) = coherence([answer(PROMPT, [*SAID, END])], sharp())
    assert found == pytest.approx(inverse_perplexity([END, *PROMPT, *SAID, END], 5), rel=1e-4)
    (only_the_end,) = coherence([answer(PROMPT, [END])], sharp())
    assert only_the_end == pytest.approx(inverse_perplexity([END, *PROMPT, END], 1), rel=1e-4)


def test_the_share_of_repeated_trigrams_is_taken_off() -> None:
    # abcabcabc: 7 trigrams, of which 4 occurred before.
    never, thrice = coherence([answer(PROMPT, range(20, 29)), answer(PROMPT, [20, 21, 22] * 3)], flat())
    assert never == pytest.approx(1 / 258, rel=1e-5)
    assert thrice == pytest.approx(1 / 258 * 3 / 7, rel=1e-5)


def test_the_closing_token_makes_no_trigram() -> None:
    (closed,) = coherence([answer(PROMPT, [20, 21, 20, 21, 20, END])], flat())
    assert closed == pytest.approx(1 / 258 * 2 / 3, rel=1e-5)


def test_an_answer_of_no_tokens_has_none() -> None:
    assert coherence([answer(PROMPT, []), answer([], [])], sharp()) == (0.0, 0.0)


def test_what_does_not_fit_loses_its_oldest_tokens() -> None:
    prompt, said = list(range(50, 70)), list(range(150, 160))
    (found,) = coherence([answer(prompt, said)], sharp())
    assert found == pytest.approx(inverse_perplexity([END, *prompt[6:], *said], 10), rel=1e-4)
    long = list(range(100, 100 + LENGTH + 3))
    (found,) = coherence([answer(prompt, long)], sharp())
    assert found == pytest.approx(inverse_perplexity([END, *long[3:]], LENGTH), rel=1e-4)


@settings(max_examples=20)
@given(st.lists(st.tuples(IDS, IDS), min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_it_lies_between_its_bounds_whatever_the_answers_beside_it(pairs: list, draw: object) -> None:
    answers = [answer(prompt, said) for prompt, said in pairs]
    together = coherence(answers, sharp())
    assert all(0 <= found <= 1 for found in together)
    shuffled = draw.sample(range(len(answers)), len(answers))
    again = coherence([answers[number] for number in shuffled], sharp())
    assert again == pytest.approx([together[number] for number in shuffled], rel=1e-4)
    assert [coherence([one], sharp())[0] for one in answers] == pytest.approx(together, rel=1e-4)


@settings(max_examples=20)
@given(st.lists(st.integers(2, 257), min_size=3, max_size=LENGTH // 2))
def test_at_equal_likelihood_a_repeated_answer_is_less_coherent(said: list[int]) -> None:
    once, twice = coherence([answer([], said), answer([], said + said)], flat())
    assert twice < once
