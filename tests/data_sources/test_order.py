"""The shuffle is a permutation of any length, and another one for every key."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamlm.core.errors import RangeError
from dreamlm.data_sources.order import shuffled


@given(st.integers(1, 3000), st.integers(0, 2**63 - 1))
def test_every_position_goes_somewhere_else_exactly_once(length: int, key: int) -> None:
    assert np.array_equal(np.sort(shuffled(np.arange(length), length, key)), np.arange(length))


@given(st.integers(1, 10**12), st.integers(0, 2**63 - 1), st.data())
def test_a_position_alone_goes_where_it_goes_in_company(length: int, key: int, data: st.DataObject) -> None:
    positions = data.draw(st.lists(st.integers(0, length - 1), min_size=1, max_size=20))
    together = shuffled(positions, length, key)
    assert [int(shuffled(position, length, key)[0]) for position in positions] == together.tolist()
    assert together.max() < length


def test_keys_give_different_orders() -> None:
    orders = {tuple(shuffled(np.arange(100), 100, key).tolist()) for key in range(50)}
    assert len(orders) == 50


@pytest.mark.parametrize("length", [7, 64, 1000])
def test_every_place_is_equally_likely(length: int) -> None:
    """Chi-square of where position 0 lands over 20,000 keys, within five standard deviations of its mean."""
    landed = np.array([shuffled(0, length, key)[0] for key in range(2000)])
    bins = min(length, 50)
    counts = np.bincount(landed * bins // length, minlength=bins)
    expected = np.bincount(np.arange(length) * bins // length, minlength=bins) * 2000 / length
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    assert chi_square < (bins - 1) + 5 * (2 * (bins - 1)) ** 0.5


def test_neighbours_do_not_stay_neighbours() -> None:
    order = shuffled(np.arange(10_000), 10_000, 3)
    assert np.abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.05
    assert (np.abs(np.diff(order)) == 1).sum() < 20


@pytest.mark.parametrize("position", [-1, 5])
def test_a_position_outside_is_refused(position: int) -> None:
    with pytest.raises(RangeError, match=r"0\.\.4"):
        shuffled([position], 5, 0)
