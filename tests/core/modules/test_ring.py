"""A ring is a value: against a list for each row, in every order of pushing, emptying and going on from older ones."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dreamlm.core.modules.ring import SPARE, Ring

ROWS, SIZE = 3, 3
NOWHERE = torch.device("cpu")


def shown(ring: Ring) -> list[list[float]]:
    """What each row holds, oldest first."""
    newest = ring.ordered()[..., 0]
    return [newest[row, SIZE - int(count) :].tolist() for row, count in enumerate(ring.count_B)]


operations = st.lists(
    st.tuples(
        st.integers(0, 9),  # the value to go on from, counted backwards
        st.lists(st.integers(0, ROWS - 1), unique=True),
        st.lists(st.booleans(), min_size=ROWS, max_size=ROWS),
        st.lists(st.booleans(), min_size=ROWS, max_size=ROWS),
    ),
    max_size=25,
)


@settings(max_examples=100)
@given(steps=operations, gradient=st.booleans())
def test_every_value_stays_what_it_was(
    steps: list[tuple[int, list[int], list[bool], list[bool]]], gradient: bool
) -> None:
    rings, lists = [Ring.empty(ROWS, SIZE, (2,), NOWHERE)], [[[] for _ in range(ROWS)]]
    with torch.set_grad_enabled(gradient):
        for number, (back, rows, keeps, over) in enumerate(steps):
            origin = max(0, len(rings) - 1 - back)
            ring, held = rings[origin], [list(row) for row in lists[origin]]
            ring = ring.emptied(torch.tensor(over))
            held = [[] if gone else row for gone, row in zip(over, held, strict=True)]
            if rows:
                new = torch.tensor([[float(10 * number + row)] * 2 for row in rows])
                ring = ring.push(new, torch.tensor(rows), torch.tensor([keeps[row] for row in rows]))
            for row in rows:
                held[row] = [*held[row], float(10 * number + row)][-SIZE:] if keeps[row] else held[row]
            rings.append(ring)
            lists.append(held)
    assert [shown(ring) for ring in rings] == lists


def test_rows_are_chosen_in_the_order_asked_for() -> None:
    ring = Ring.empty(ROWS, SIZE, (2,), NOWHERE)
    for number in range(5):
        ring = ring.push(torch.full((ROWS, 2), float(number)) + torch.arange(ROWS)[:, None], *everyone())
    assert shown(ring.select(torch.tensor([2, 0]))) == [[4.0, 5.0, 6.0], [2.0, 3.0, 4.0]]


def everyone() -> tuple[Tensor, Tensor]:
    return torch.arange(ROWS), torch.ones(ROWS, dtype=torch.bool)


def test_a_push_copies_nothing_where_each_value_replaces_the_one_before() -> None:
    with torch.no_grad():
        ring = Ring.empty(ROWS, SIZE, (2,), NOWHERE)
        places = set()
        for number in range(40):
            ring = ring.push(torch.full((ROWS, 2), float(number)), *everyone())
            places.add(ring.buffer.slots_BC.data_ptr())
    assert len(places) == 1
    assert shown(ring) == [[37.0, 38.0, 39.0]] * ROWS


def test_a_value_that_is_held_outlives_as_many_pushes_as_there_are_spare_slots_and_more() -> None:
    with torch.no_grad():
        held = Ring.empty(ROWS, SIZE, (2,), NOWHERE)
        for number in range(SIZE):
            held = held.push(torch.full((ROWS, 2), float(number)), *everyone())
        before, ring = shown(held), held
        for number in range(SPARE + 1):
            ring = ring.push(torch.full((ROWS, 2), 10.0 + number), *everyone())
    assert shown(held) == before == [[0.0, 1.0, 2.0]] * ROWS


def test_gradient_flows_through_a_ring() -> None:
    new = torch.randn(ROWS, 2, requires_grad=True)
    ring = Ring.empty(ROWS, SIZE, (2,), NOWHERE).push(new, *everyone())
    for _ in range(SIZE):
        kept = ring
        ring = ring.push(torch.zeros(ROWS, 2), *everyone())
    (gradient,) = torch.autograd.grad(kept.ordered().sum(), new, retain_graph=True)
    assert bool((gradient == 1).all())
    (forgotten,) = torch.autograd.grad(ring.ordered().sum() + 0 * new.sum(), new)
    assert bool((forgotten == 0).all())
