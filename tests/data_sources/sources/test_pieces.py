"""Claims about cutting long text."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from dreamlm.data_sources.sources.pieces import cut

TEXTS = st.text(st.sampled_from("ab. \n!?"), max_size=400)


@given(TEXTS, st.integers(5, 20), st.integers(0, 30))
def test_pieces_join_to_the_text_and_keep_their_sizes(text: str, shortest: int, more: int) -> None:
    pieces = list(cut([text], shortest, shortest + more))
    assert "".join(pieces) == text
    assert all(len(piece) <= shortest + more for piece in pieces)
    assert all(len(piece) >= shortest for piece in pieces[:-1])


@given(TEXTS, st.lists(st.integers(0, 400), max_size=5), st.booleans())
def test_the_division_into_blocks_changes_nothing(text: str, cuts: list[int], at_paragraphs: bool) -> None:
    edges = [0, *sorted(cuts), len(text)]
    blocks = [text[start:end] for start, end in pairwise(edges)]
    assert list(cut(blocks, 10, 30, at_paragraphs)) == list(cut([text], 10, 30, at_paragraphs))


def test_pieces_end_with_sentences() -> None:
    text = "One two three four. " * 100
    assert all(piece.strip().endswith(".") for piece in cut([text], 300, 500))


def test_paragraphs_are_preferred_when_asked_for() -> None:
    text = ("A sentence. " * 5 + "\n\n") * 10
    assert all(piece.endswith("\n\n") for piece in cut([text], 100, 200, at_paragraphs=True))


def test_no_piece_is_short_where_the_text_allows_it() -> None:
    assert [len(piece) for piece in cut(["x" * 6500], 3000, 5000)] == [3500, 3000]


def test_text_without_any_space_is_cut_at_the_longest_size() -> None:
    assert [len(piece) for piece in cut(["x" * 100], 10, 30)] == [30, 30, 30, 10]
