from hypothesis import given
from hypothesis import strategies as st

from dreamlm.core.generation.ngram import NgramBlock

tokens = st.lists(st.integers(0, 4), max_size=30)


def blocked_by_rescanning(history: list[int], size: int) -> set[int]:
    """The definition: what would make the last n tokens equal to any n tokens before."""
    prefix = history[len(history) - size + 1 :]
    if len(prefix) < size - 1:
        return set()
    places = range(len(history) - size + 1)
    return {history[place + size - 1] for place in places if history[place : place + size - 1] == prefix}


@given(history=tokens, size=st.integers(1, 5))
def test_blocks_what_a_rescan_of_the_history_blocks(history: list[int], size: int) -> None:
    block = NgramBlock(size)
    for end, token in enumerate(history):
        assert set(block.blocked()) == blocked_by_rescanning(history[:end], size)
        block.push(token)
    assert set(block.blocked()) == blocked_by_rescanning(history, size)


@given(prompt=tokens, output=tokens, size=st.integers(1, 4))
def test_a_history_given_at_once_counts_like_one_pushed(prompt: list[int], output: list[int], size: int) -> None:
    block = NgramBlock(size, prompt)
    for token in output:
        block.push(token)
    assert set(block.blocked()) == blocked_by_rescanning(prompt + output, size)


def test_memory_of_one_block_does_not_reach_another() -> None:
    first, second = NgramBlock(2, [1, 2, 1]), NgramBlock(2, [1])
    assert (set(first.blocked()), set(second.blocked())) == ({2}, set())
