"""Self-BLEU agrees with nltk, whose sentence BLEU the authors of the measure use."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

from dreamlm.core.evaluation.self_bleu import SelfBleu


def by_nltk(texts: list[list[int]]) -> float:
    method = SmoothingFunction().method1
    scores = [
        sentence_bleu([*texts[:number], *texts[number + 1 :]], text, smoothing_function=method)
        for number, text in enumerate(texts)
    ]
    return float(np.mean(scores))


def test_two_texts_by_hand() -> None:
    # 1 2 3 4 5 against 1 2 3 9: 3 of 5 words, 2 of 4, 1 of 3, 0.1 of 2; and 3 of 4, 2 of 3, 1 of 2, 0.1 of 1, shorter.
    first = (3 / 5 * 2 / 4 * 1 / 3 * 0.1 / 2) ** 0.25
    second = (3 / 4 * 2 / 3 * 1 / 2 * 0.1 / 1) ** 0.25 * math.exp(1 - 5 / 4)
    value = SelfBleu([[1, 2, 3, 4, 5], [1, 2, 3, 9]])(np.arange(2))
    assert value == pytest.approx((first + second) / 2)


@settings(max_examples=200)
@given(st.lists(st.lists(st.integers(0, 3), max_size=12), min_size=2, max_size=6))
def test_it_is_nltks(texts: list[list[int]]) -> None:
    assert SelfBleu(texts)(np.arange(len(texts))) == pytest.approx(by_nltk(texts), abs=1e-12)


def test_it_is_nltks_on_longer_texts_and_on_part_of_them() -> None:
    generator = np.random.default_rng(3)
    texts = [generator.integers(0, 30, size=size).tolist() for size in generator.integers(10, 60, size=40)]
    texts[7] = [*texts[3]]
    kept = np.array([0, 3, 4, 7, 20, 39])
    assert SelfBleu(texts)(np.arange(40)) == pytest.approx(by_nltk(texts), abs=1e-12)
    assert SelfBleu(texts)(kept) == pytest.approx(by_nltk([texts[number] for number in kept]), abs=1e-12)


def test_texts_that_are_all_the_same_have_1_and_strangers_0() -> None:
    assert SelfBleu([[1, 2, 3, 4, 5]] * 3)(np.arange(3)) == pytest.approx(1.0)
    assert SelfBleu([[1, 2, 3, 4], [5, 6, 7, 8]])(np.arange(2)) == 0.0


def test_one_text_has_none() -> None:
    assert math.isnan(SelfBleu([[1, 2, 3, 4]])(np.arange(1)))
