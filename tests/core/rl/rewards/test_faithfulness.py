"""Faithfulness is what an answer does to the likelihood of its prompt."""

import math
from statistics import mean

import pytest
from answers_by_hand import END, IDS, LENGTH, answer, copying, flat, naive_logs, sharp
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamlm.core.rl.rewards.creativity import creativity
from dreamlm.core.rl.rewards.faithfulness import faithfulness

PROMPT, SAID = [7, 30, 12, 99], [45, 30, 200]


def by_hand(prompt: list[int], said: list[int]) -> float:
    behind = naive_logs(sharp(), [END, *said, *prompt], len(prompt))
    alone = naive_logs(sharp(), [END, *prompt], len(prompt))
    return math.tanh(mean(behind) - mean(alone))


def test_it_is_the_gain_of_the_prompt_in_nats_a_token() -> None:
    (found,) = faithfulness([answer(PROMPT, SAID)], sharp())
    assert found == pytest.approx(by_hand(PROMPT, SAID), abs=1e-5)
    assert abs(found) > 0.1


def test_the_end_of_the_answer_is_not_read_before_the_prompt() -> None:
    assert faithfulness([answer(PROMPT, [*SAID, END])], sharp()) == faithfulness([answer(PROMPT, SAID)], sharp())


def test_an_empty_answer_and_an_empty_prompt_change_nothing() -> None:
    assert faithfulness([answer(PROMPT, []), answer(PROMPT, [END]), answer([], SAID)], sharp()) == (0.0, 0.0, 0.0)


def test_a_reference_that_learns_nothing_from_what_it_reads_finds_every_answer_neutral() -> None:
    assert faithfulness([answer(PROMPT, SAID)], flat()) == (0.0,)


@pytest.mark.parametrize(
    ("prompt", "said", "kept_prompt", "kept_said"),
    [(24, 0, 24, 0), (20, 4, 20, 4), (20, 6, 18, 6), (20, 20, 12, 12), (5, 20, 5, 19), (40, 40, 12, 12)],
)
def test_what_does_not_fit_loses_its_oldest_tokens_in_both_terms(
    prompt: int, said: int, kept_prompt: int, kept_said: int
) -> None:
    asked, written = list(range(50, 50 + prompt)), list(range(150, 150 + said))
    assert kept_prompt + kept_said <= LENGTH
    (found,) = faithfulness([answer(asked, written)], sharp())
    newest = written[len(written) - kept_said :]
    assert found == pytest.approx(by_hand(asked[-kept_prompt:], newest), abs=1e-5)


def test_a_copy_of_the_prompt_has_the_most_and_creativity_takes_it_back() -> None:
    prompt, other = [3, 9, 14, 5, 11, 7], [4, 8, 15, 6, 10, 12]
    copied, free = faithfulness([answer(prompt, prompt), answer(prompt, other)], copying())
    assert copied > 0.95
    assert free < 0.1
    assert creativity([answer(prompt, prompt), answer(prompt, other)]) == (0.0, 1.0)


@settings(max_examples=20)
@given(st.lists(st.tuples(IDS, IDS), min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_it_lies_between_its_bounds_whatever_the_answers_beside_it(pairs: list, draw: object) -> None:
    answers = [answer(prompt, said) for prompt, said in pairs]
    together = faithfulness(answers, sharp())
    assert all(-1 <= found <= 1 for found in together)
    shuffled = draw.sample(range(len(answers)), len(answers))
    again = faithfulness([answers[number] for number in shuffled], sharp())
    assert again == pytest.approx([together[number] for number in shuffled], abs=1e-5)
    assert [faithfulness([one], sharp())[0] for one in answers] == pytest.approx(together, abs=1e-5)
