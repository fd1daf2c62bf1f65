"""A table of learned positions has a row for each, and can be stretched."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dreamlm.core.nn.positions.learned import Learned, stretched


def test_each_token_gets_the_row_of_its_position() -> None:
    positions = Learned.Config().build(hidden_size=3, num_heads=1, head_size=3, num_layers=1, seq_length=8)
    hidden, places = torch.randn(2, 4, 3), torch.tensor([[0, 1, 2, 3], [7, 0, 5, 1]])
    embedded = positions.embed(hidden, places)
    for row in range(2):
        for column in range(4):
            expected = hidden[row, column] + positions.table.weight[places[row, column]]
            assert torch.equal(embedded[row, column], expected)


@given(rows=st.integers(2, 40), more=st.integers(0, 200))
def test_a_stretched_table_is_linear_between_the_rows_and_keeps_both_ends(rows: int, more: int) -> None:
    table = torch.randn(rows, 3, generator=torch.Generator().manual_seed(rows))
    longer = stretched(table, rows + more)
    places = np.linspace(0, rows - 1, rows + more)
    expected = np.stack([np.interp(places, np.arange(rows), column) for column in table.T.numpy()], axis=1)
    np.testing.assert_allclose(longer.numpy(), expected, atol=1e-6)
    torch.testing.assert_close(longer[[0, -1]], table[[0, -1]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_stretched_table_has_the_type_of_the_weights(dtype: torch.dtype) -> None:
    table = torch.randn(8, 4).to(dtype)
    assert stretched(table, 32).dtype == dtype
    assert torch.equal(stretched(table, 8), table)
