"""Distinct-n, Ent-n and repetition, counted by hand."""

from math import log2, nan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamlm.core.evaluation.variety import NgramPool, repetition

TEXTS = [[0, 1, 0, 1], [0, 1, 2], [5], []]
ALL = np.arange(4)


def test_distinct_is_the_share_of_different_ngrams_of_all_texts_together() -> None:
    assert NgramPool(TEXTS, 1).distinct(ALL) == 4 / 8
    assert NgramPool(TEXTS, 2).distinct(ALL) == 3 / 5, "01 10 01 | 01 12: none reaches into another text"
    assert NgramPool(TEXTS, 3).distinct(ALL) == 3 / 3
    assert NgramPool(TEXTS, 2).distinct(np.array([1])) == 1.0
    assert NgramPool(TEXTS, 4).distinct(np.array([2, 3])) == pytest.approx(nan, nan_ok=True)


def test_entropy_is_that_of_the_shares_of_the_ngrams() -> None:
    # 01 three times, 10 and 12 once each
    assert NgramPool(TEXTS, 2).entropy(ALL) == pytest.approx(-0.6 * log2(0.6) - 2 * 0.2 * log2(0.2))
    assert NgramPool([[1, 2, 3, 4]], 1).entropy(np.array([0])) == 2.0, "four equally frequent words have two bits"
    assert NgramPool([[7, 7, 7]], 1).entropy(np.array([0])) == 0.0


def test_repetition_is_the_share_of_a_texts_ngrams_that_came_before() -> None:
    assert repetition([1, 2, 3, 1, 2, 3], 2) == pytest.approx(2 / 5)
    assert repetition([1, 1, 1, 1], 1) == pytest.approx(3 / 4)
    assert repetition([1, 2, 3, 4, 5], 4) == 0.0
    assert repetition([1, 2, 3], 4) is None


@given(st.lists(st.lists(st.integers(0, 4), max_size=8), min_size=1, max_size=6), st.integers(1, 3))
def test_any_part_of_a_pool_is_the_pool_of_that_part(texts: list[list[int]], length: int) -> None:
    part = np.arange(0, len(texts), 2)
    whole, alone = NgramPool(texts, length), NgramPool([texts[number] for number in part], length)
    everything = np.arange(len(part))
    assert whole.distinct(part) == pytest.approx(alone.distinct(everything), nan_ok=True)
    assert whole.entropy(part) == pytest.approx(alone.entropy(everything), nan_ok=True)
    if len(alone):
        assert -1e-9 <= alone.entropy(everything) <= log2(len(alone)) + 1e-9
