from hypothesis import given
from hypothesis import strategies as st

from dreamlm.core.generation.stopping import StopScanner

texts = st.text(alphabet="abc", max_size=20)
stop_strings = st.lists(st.text(alphabet="abc", min_size=1, max_size=4), max_size=3)


def scan(pieces: list[str], stops: list[str]) -> tuple[list[str], bool]:
    scanner = StopScanner(stops)
    given_out = []
    for piece in pieces:
        result = scanner.push(piece)
        given_out.append(result.text)
        if result.stopped:
            return given_out, True
    return [*given_out, scanner.finish()], False


def cut_character_by_character(text: str, stops: list[str]) -> tuple[str, bool]:
    """The definition: the first character that completes a stop string ends the text; the longest one counts."""
    for end in range(1, len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            return text[: end - max(map(len, complete))], True
    return text, False


@given(pieces=st.lists(texts, max_size=6), stops=stop_strings)
def test_cuts_where_the_definition_cuts_however_the_text_comes(pieces: list[str], stops: list[str]) -> None:
    given_out, stopped = scan(pieces, stops)
    assert ("".join(given_out), stopped) == cut_character_by_character("".join(pieces), stops)


@given(text=texts, stops=stop_strings)
def test_never_gives_out_what_may_still_become_a_stop_string(text: str, stops: list[str]) -> None:
    scanner, given_out = StopScanner(stops), ""
    for end, character in enumerate(text, start=1):
        result = scanner.push(character)
        given_out += result.text
        if result.stopped:
            return
        begun = [text[begin:end] for begin in range(end) if any(stop.startswith(text[begin:end]) for stop in stops)]
        assert len(given_out) == end - max(map(len, begun), default=0)


def test_a_stop_string_across_three_pieces_is_found() -> None:
    assert scan(["one \n", "\n", "Q: two"], ["\n\nQ:"]) == (["one ", "", ""], True)


def test_text_without_stop_strings_passes_at_once() -> None:
    assert scan(["a", "b"], []) == (["a", "b", ""], False)
