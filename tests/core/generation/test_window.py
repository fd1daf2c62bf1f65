from hypothesis import given
from hypothesis import strategies as st

from dreamlm.core.generation.window import ContextWindow

sizes = st.integers(2, 70)


def lengths_read(size: int, prompt: int, new_tokens: int) -> list[int]:
    """How many tokens the model reads at once before each choice."""
    window = ContextWindow(size)
    length = window.opening(prompt, new_tokens)
    lengths = [length]
    for chosen in range(1, new_tokens):
        length += 1
        if chosen % window.stride == 0:
            length = window.kept(length, new_tokens - chosen)
        lengths.append(length)
    return lengths


@given(size=sizes, prompt=st.integers(1, 200), new_tokens=st.integers(1, 200))
def test_the_model_never_reads_more_than_the_window(size: int, prompt: int, new_tokens: int) -> None:
    assert max(lengths_read(size, prompt, new_tokens)) <= size


@given(size=sizes, prompt=st.integers(1, 200), new_tokens=st.integers(1, 200))
def test_at_least_half_a_window_stays_readable(size: int, prompt: int, new_tokens: int) -> None:
    assert min(lengths_read(size, prompt, new_tokens)) >= min(prompt, size // 2)


@given(size=sizes, data=st.data())
def test_a_text_that_fits_is_read_whole(size: int, data: st.DataObject) -> None:
    prompt = data.draw(st.integers(1, size))
    new_tokens = size - prompt + 1  # the last one is chosen and not read
    assert lengths_read(size, prompt, new_tokens) == list(range(prompt, size + 1))
