"""How a window is cut into blocks: by hand, and against a reading of the rule token by token."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dreamlm.core.nn.noise import SCHEDULES
from dreamlm.core.objectives.blocks import Blocks, lay_out

FILLER, MASK = 98, 99


def positions(documents: list[int]) -> list[int]:
    found: list[int] = []
    for place, document in enumerate(documents):
        same = place > 0 and documents[place - 1] == document
        found.append(found[-1] + 1 if same and document >= 0 else 0)
    return found


def blocks(tokens: list[list[int]], documents: list[list[int]], size: int) -> Blocks:
    position_BT = torch.tensor([positions(row[:-1]) for row in documents])
    return lay_out(torch.tensor(tokens), torch.tensor(documents, dtype=torch.int32), position_BT, size, FILLER)


def test_a_document_that_ends_within_a_block_goes_on_with_filler_behind_its_end() -> None:
    found = blocks([[0, 1, 2, 0, 3, 4, 5, 6, 7]], [[0, 0, 0, 1, 1, 1, 1, 1, 1]], size=4)
    assert found.token_BN.tolist() == [[0, 1, 2, 0, 3, 4, 5, 6, 0]]
    assert found.target_BN.tolist() == [[1, 2, 0, 3, 4, 5, 6, 7, FILLER]]
    assert found.documents_BN.tolist() == [[0, 0, 0, 1, 1, 1, 1, 1, 0]]
    assert found.position_BN.tolist() == [[0, 1, 2, 0, 1, 2, 3, 4, 3]]
    assert found.begin_BN.tolist() == [[0, 0, 0, 0, 4, 4, 4, 4, 0]]
    assert found.given_BN.tolist() == [[True, False, False, True, True, False, False, False, False]]
    assert found.before_BN[0, 8] == 2
    assert found.size_U.tolist() == [4, 1, 4]


def test_a_hidden_token_is_a_mask_in_the_slot_that_stands_for_it() -> None:
    found = blocks([[0, 1, 2, 3, 4]], [[0] * 5], size=4)
    slots = found.slots(torch.tensor([[True, False, True, True]]), MASK)
    assert slots.tokens_BN.tolist() == [[0, MASK, 2, MASK]]


def test_of_each_block_as_many_targets_are_hidden_as_asked() -> None:
    found = blocks([[0, 1, 2, 0, 3, 4, 5, 6, 7]], [[0, 0, 0, 1, 1, 1, 1, 1, 1]], size=4)
    score = torch.tensor([[0.9, 0.1, 0.5, 0.3, 0.2, 0.8, 0.1, 0.7, 0.4]])
    masked = found.masked(torch.tensor([2, 1, 3]), score)
    assert masked.tolist() == [[False, True, False, True, True, False, True, True, True]]
    importance = found.importance(torch.tensor([2, 1, 3]), masked, SCHEDULES["linear"])
    assert torch.allclose(importance, torch.tensor([[0, 2, 0, 1, 4 / 3, 0, 4 / 3, 4 / 3, 2]]))


documents_of_a_row = st.lists(st.integers(1, 9), min_size=1, max_size=8).map(
    lambda lengths: [index for index, length in enumerate(lengths) for _ in range(length)]
)


@settings(max_examples=60)
@given(
    rows=st.lists(documents_of_a_row, min_size=1, max_size=3),
    size=st.sampled_from([1, 2, 4]),
    length=st.integers(2, 14),
)
def test_the_layout_is_the_one_that_is_read_token_by_token(rows: list[list[int]], size: int, length: int) -> None:
    padded = [(row + [-1] * (length + 1))[: length + 1] for row in rows]
    tokens = [[1 + (7 * row + 3 * place) % 20 for place in range(length + 1)] for row in range(len(rows))]
    found = blocks(tokens, padded, size)
    for row, documents in enumerate(padded):
        expected = sorted(naive(tokens[row], documents, size))
        assert sorted(shown(found, row)) == expected


def naive(tokens: list[int], documents: list[int], size: int) -> list[tuple[object, ...]]:
    """Document, column, place, token, target, whether it is given, and the size of its block, of what predicts."""
    slots: list[tuple[int, int, int, int, int, bool]] = []
    place = positions(documents)
    length = len(tokens) - 1
    for column in range(length):
        document, last = documents[column], column % size == size - 1
        if document < 0 or documents[column + 1] < 0:
            continue
        given = column % size == 0 or place[column] == 0
        slots.append((document, column, place[column], tokens[column], tokens[column + 1], given))
        goes_on = column + 1 < length and documents[column + 1] == document and documents[column + 2] >= 0
        if not goes_on and not last:
            behind = [tokens[column + 1], *[FILLER] * size]
            for further in range(column + 1, (column // size + 1) * size):
                token = behind[further - column - 1]
                slots.append((document, further, place[column] + further - column, token, FILLER, False))
    sizes = [sum(one[0] == other[0] and one[1] // size == other[1] // size for other in slots) for one in slots]
    return [(*slot, count) for slot, count in zip(slots, sizes, strict=True)]


def shown(found: Blocks, row: int) -> list[tuple[object, ...]]:
    nobody = len(found.size_U)
    own = found.unit_BN[row] < nobody
    columns: list[Tensor] = [
        found.documents_BN, found.column_BN, found.position_BN, found.token_BN, found.target_BN, found.given_BN,
    ]  # fmt: skip
    sizes = torch.cat([found.size_U, torch.zeros(1, dtype=torch.int64)])[found.unit_BN[row]]
    return list(zip(*(column[row][own].tolist() for column in columns), sizes[own].tolist(), strict=True))
