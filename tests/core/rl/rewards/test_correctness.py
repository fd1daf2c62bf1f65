"""Correctness is agreement with the reference answer, as question answering has always measured it."""

import re
import string
from collections import Counter

import pytest
from answers_by_hand import answer
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamlm.core.rl.rewards.correctness import METRICS, Metric, correctness, normalised


def scored(metric: Metric, said: str, wanted: str) -> float | None:
    (found,) = correctness([answer([5], [6], said, wanted)], metric)
    return found


@pytest.mark.parametrize(
    ("said", "wanted", "exact", "f1", "words"),
    [
        ("The cat.", "a CAT", 1, 1, 1),
        ("the cat sat", "cat", 0, 2 / 3, 1),
        ("cat", "the cat sat on the mat", 0, 2 / 5, 1 / 4),
        ("cat cat cat", "cat dog", 0, 2 / 5, 1 / 2),
        ("cat dog", "dog cat", 0, 1, 1),
        ("dog", "cat", 0, 0, 0),
        ("", "cat", 0, 0, 0),
        ("the", "?", 1, 1, 1),
        ("cat", "?", 0, 0, 0),
    ],
)
def test_each_metric_has_its_value_by_hand(said: str, wanted: str, exact: float, f1: float, words: float) -> None:
    found = [scored("exact", said, wanted), scored("f1", said, wanted), scored("words", said, wanted)]
    assert found == pytest.approx([exact, f1, words])


@pytest.mark.parametrize("metric", METRICS)
def test_without_a_reference_answer_it_does_not_apply(metric: Metric) -> None:
    assert scored(metric, "anything", "") is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("«Où?» — L\u2019ÉTÉ…", ["où", "lété"]),
        ("cafe\u0301", ["caf\u00e9"]),
        ("「猫」です。", ["猫です"]),
        ("¿Qué? ¡Ñandú!", ["qué", "ñandú"]),
        ("ΑΘΗΝΑ, Москва", ["αθηνα", "москва"]),
        ("$5 + 3%", ["5", "3"]),
        ("\u00a0the\u2003end\n", ["end"]),
        ("theory an-other", ["theory", "another"]),
    ],
)
def test_words_are_the_same_in_any_script_and_spelling(text: str, words: list[str]) -> None:
    assert normalised(text) == words


PIECES = [*"abcst \t.,!?$+-'", "the ", "An ", " A", "THE", "cat", "sat"]
ASCII = st.lists(st.sampled_from(PIECES), max_size=12).map("".join)


@settings(max_examples=300)
@given(ASCII, ASCII.filter(bool))
def test_on_english_text_f1_and_exact_are_those_of_squad(said: str, wanted: str) -> None:
    assert scored("f1", said, wanted) == pytest.approx(naive_f1(said, wanted))
    assert scored("exact", said, wanted) == float(naive_words(said) == naive_words(wanted))


def naive_words(text: str) -> list[str]:
    bare = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", bare).split()


def naive_f1(said: str, wanted: str) -> float:
    """Precision and recall, word by word."""
    mine, theirs = naive_words(said), naive_words(wanted)
    if not mine or not theirs:
        return float(mine == theirs)
    left, shared = Counter(theirs), 0
    for word in mine:
        if left[word] > 0:
            left[word] -= 1
            shared += 1
    if not shared:
        return 0.0
    precision, recall = shared / len(mine), shared / len(theirs)
    return 2 * precision * recall / (precision + recall)


@given(st.text(max_size=30), st.text(min_size=1, max_size=30), st.sampled_from(list(METRICS)))
def test_it_lies_between_its_bounds_and_the_reference_itself_is_right(said: str, wanted: str, metric: Metric) -> None:
    assert 0 <= scored(metric, said, wanted) <= 1
    assert scored(metric, wanted, wanted) == 1


@given(ASCII, ASCII.filter(bool))
def test_who_says_something_loses_no_words_by_saying_more(said: str, wanted: str) -> None:
    assert scored("words", f"so {said} more", wanted) >= scored("words", f"so {said}", wanted)
