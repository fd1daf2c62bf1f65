"""Mixing keeps its proportions, follows changed weights at once, and names the source that a weight misses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamlm.core.errors import UserMistake
from dreamlm.core.types import Cursor
from dreamlm.data_sources.mixing import next_sources, normalised, resolve_weights

weight_lists = st.lists(st.floats(0.01, 10), min_size=1, max_size=5).map(normalised)


@given(weight_lists, st.integers(1, 400))
def test_weighted_counts_never_stray_from_their_share(weights: tuple[float, ...], count: int) -> None:
    cursor = Cursor(weights=weights, credit=(0.0,) * len(weights))
    chosen, credit = next_sources("weighted", cursor, [1] * len(weights), count)
    for source, weight in enumerate(weights):
        assert abs(chosen.count(source) - count * weight) < len(weights)
    assert sum(credit) == pytest.approx(0, abs=1e-9)


@given(weight_lists, st.integers(0, 50), st.integers(0, 50))
def test_drawing_in_two_steps_is_drawing_at_once(weights: tuple[float, ...], first: int, second: int) -> None:
    cursor = Cursor(weights=weights, credit=(0.0,) * len(weights))
    whole, credit = next_sources("weighted", cursor, [1] * len(weights), first + second)
    head, between = next_sources("weighted", cursor, [1] * len(weights), first)
    tail, after = next_sources("weighted", Cursor(weights=weights, credit=between), [1] * len(weights), second)
    assert (head + tail, after) == (whole, credit)


def test_a_source_of_weight_zero_is_never_drawn() -> None:
    chosen, _ = next_sources("weighted", Cursor(weights=(0.5, 0.0, 0.5), credit=(0.0, 9.0, 0.0)), [1, 1, 1], 20)
    assert 1 not in chosen


def test_round_robin_takes_turns_from_where_it_stood() -> None:
    assert next_sources("round_robin", Cursor(samples=4), [9, 9, 9], 5)[0] == [1, 2, 0, 1, 2]


def test_sequential_takes_a_whole_epoch_of_each_in_turn() -> None:
    assert next_sources("sequential", Cursor(samples=1), [2, 3], 8)[0] == [0, 1, 1, 1, 0, 0, 1, 1]


def test_weights_by_name_find_their_source() -> None:
    assert resolve_weights({"b": 3, "a": 1}, ["a", "b"]) == (0.25, 0.75)
    assert resolve_weights([1, 3], ["a", "b"]) == (0.25, 0.75)
    assert resolve_weights(None, ["a", "b"]) == (0.5, 0.5)


def test_a_source_that_failed_gives_its_share_to_the_others() -> None:
    assert resolve_weights({"a": 1, "b": 3, "gone": 96}, ["a", "b"], ["gone"]) == (0.25, 0.75)


@pytest.mark.parametrize(
    ("given_weights", "message"),
    [
        ({"a": 1, "c": 1}, "no source of the corpus: c"),
        ({"a": 1}, "no weight for b"),
        ([1.0], "1 weights for 2 sources"),
        ([0.0, 0.0], "not all 0"),
        ([-1.0, 2.0], "none below 0"),
        ([float("nan"), 2.0], "finite"),
    ],
)
def test_weights_that_fit_no_source_are_refused(given_weights: dict[str, float] | list[float], message: str) -> None:
    with pytest.raises(UserMistake, match=message):
        resolve_weights(given_weights, ["a", "b"])
