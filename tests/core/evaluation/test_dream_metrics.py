"""Every measure of dreams by hand, what it says where there is nothing to say, and its formula on anything.

Shapes: K segments of a text, N dreams, V numbers of a dream, E experts.
"""

import itertools
import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamlm.core.evaluation import dream_metrics as metrics

EVERY = np.arange(1)


def gates(*segments: Sequence[Sequence[float]]) -> np.ndarray:
    return np.array(segments, np.float32)


BOTH = gates([[0.7, 0.3, 0.0], [0.0, 0.4, 0.6]], [[0.2, 0.8, 0.0], [0.0, 0.4, 0.6]])
"""Dream 0 is dreamt by experts 0 and 1, in turn the first; dream 1 always by 2 and 1."""


def test_load_counts_who_was_chosen_for_each_dream() -> None:
    assert metrics.load(BOTH).tolist() == [[2, 2, 0], [0, 2, 2]]
    assert metrics.load(BOTH[:0]).tolist() == [[0, 0, 0], [0, 0, 0]]
    assert metrics.most_chosen([BOTH[:0], BOTH]) == 2
    assert metrics.most_chosen([BOTH[:0]]) == 1


def test_the_first_expert_weighs_most_and_a_set_is_all_that_were_chosen() -> None:
    assert metrics.first_experts(BOTH).tolist() == [[0, 2], [1, 2]]
    (first, second, none) = metrics.expert_sets([BOTH[:1], BOTH[1:], BOTH[:0]])
    assert first.tolist() == second.tolist()
    assert first[0, 0] != first[0, 1]
    assert none.shape == (0, 2)


def test_distances_are_of_every_two_dreams_of_a_segment() -> None:
    dreams = np.array([[[1.0, 0], [0, 2], [-3, 0]], [[1, 1], [2, 2], [0, 0]]], np.float32)
    # Of the second segment only one pair has no zero in it.
    assert sorted(metrics.distances(dreams).tolist()) == pytest.approx([0.0, 1.0, 1.0, 2.0])
    assert metrics.distances(dreams[:, :1]).tolist() == []
    assert metrics.distances(dreams[:0]).tolist() == []


def test_the_same_dream_is_compared_between_documents_and_never_with_another_dream() -> None:
    one = np.array([[[1.0, 0], [0, 1]]], np.float32)
    other = np.array([[[0.0, 3], [0, 5]], [[1, 0], [1, 0]]], np.float32)
    same = metrics.SameDream([one, other, one], np.array([0, 1, 2]))
    # Dream 0: cosines 0, 1, 0; dream 1: all 1; the second segment has nobody beside it.
    assert same(np.arange(3)) == pytest.approx((2 / 3 + 0) / 2)
    assert same(np.array([0, 1])) == pytest.approx(0.5)
    assert math.isnan(metrics.SameDream([one, other], np.array([0, 0]))(np.arange(2)))


@pytest.mark.parametrize(
    ("choices", "number_tells", "text_tells"),
    [
        ([[0, 1], [0, 1]], 1.0, 0.0),  # each dream has an expert of its own
        ([[0, 0], [1, 1]], 0.0, 1.0),  # the text alone decides
        ([[0, 2], [1, 3]], 1.0, 1.0),
        ([[0, 0], [0, 0]], 0.0, 0.0),
        ([[0, 1], [0, 1], [0, 1], [1, 1]], 0.5487949406953985, 0.5 * 0.8112781244591328),
    ],
)
def test_the_dreams_number_and_the_text_share_what_there_is_to_tell(
    choices: list[list[int]], number_tells: float, text_tells: float
) -> None:
    routing = metrics.Routing([np.array(choices)])
    assert routing.mutual_information(EVERY) == pytest.approx(number_tells, abs=1e-12)
    assert routing.conditional_entropy(EVERY) == pytest.approx(text_tells, abs=1e-12)


@given(data=st.data())
def test_information_is_its_formula_on_the_chosen_texts(data: st.DataObject) -> None:
    dreams, counts = data.draw(st.integers(1, 4)), data.draw(st.lists(st.integers(0, 5), min_size=1, max_size=4))
    texts = [
        np.array(data.draw(st.lists(st.integers(0, 3), min_size=count * dreams, max_size=count * dreams)), np.int64)
        .reshape(count, dreams)
        for count in counts
    ]  # fmt: skip
    chosen = np.array(sorted(data.draw(st.sets(st.integers(0, len(texts) - 1), min_size=1))))
    routing = metrics.Routing(texts)
    pairs = Counter(
        (number, int(row[number]))
        for text in (texts[index] for index in chosen)
        for row in text
        for number in range(dreams)
    )
    told, left = routing.mutual_information(chosen), routing.conditional_entropy(chosen)
    total = sum(pairs.values())
    if not total:
        assert math.isnan(told)
        assert math.isnan(left)
        return
    joint = {pair: count / total for pair, count in pairs.items()}
    category = {a: sum(joint.get((n, a), 0) for n in range(dreams)) for a in range(4)}
    number = 1 / dreams
    information = sum(share * math.log2(share / number / category[a]) for (n, a), share in joint.items())
    entropy = -sum(share * math.log2(share) for share in category.values() if share)
    assert told == pytest.approx(information, abs=1e-9)
    assert told + left == pytest.approx(entropy, abs=1e-9)
    assert 0 <= told <= math.log2(dreams)


def test_by_chance_numbers_tell_next_to_nothing_and_the_less_the_more_segments_there_are() -> None:
    generator = np.random.default_rng(0)
    drawn = generator.integers(0, 4, (4000, 3))
    few, many = (metrics.Routing([drawn[:count]]) for count in (40, 4000))
    assert few.by_chance(0) == pytest.approx(2 * 3 / (2 * 120 * math.log(2)), rel=0.5), "Miller's bias"
    assert many.by_chance(0) == pytest.approx(2 * 3 / (2 * 12000 * math.log(2)), rel=0.5)
    told = metrics.Routing([np.tile(np.arange(3), (40, 1))])
    assert told.mutual_information(EVERY) == math.log2(3)
    assert told.by_chance(0) < 0.2
    assert metrics.Routing([drawn[:0]]).by_chance(0) == 0.0


def test_categories_that_some_texts_lack_are_counted_all_the_same() -> None:
    parts = [np.array([[0, 1]]), np.zeros((0, 2), np.int64), np.array([[3, 1]])]
    together = metrics.Routing([np.concatenate(parts)])
    for measure in ("mutual_information", "conditional_entropy"):
        assert getattr(metrics.Routing(parts), measure)(np.arange(3)) == getattr(together, measure)(EVERY)
        for chosen in itertools.combinations(range(3), 2):
            alone = metrics.Routing([np.concatenate([parts[index] for index in chosen])])
            assert getattr(metrics.Routing(parts), measure)(np.array(chosen)) == getattr(alone, measure)(EVERY)
