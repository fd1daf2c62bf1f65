import pytest

from dreamlm.core.evaluation.vocabulary import numbered, words_of


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("It's re_use, twice: 2.5!", ["It", "'", "s", "re_use", ",", "twice", ":", "2", ".", "5", "!"]),
        ("naïve\n\tÜber — 大好きx", ["naïve", "Über", "—", "大", "好", "き", "x"]),
        (" \n", []),
    ],
)
def test_words_are_runs_of_letters_and_every_other_character(text: str, words: list[str]) -> None:
    assert words_of(text) == words


def test_the_same_word_has_the_same_number_in_every_text_and_case_counts() -> None:
    assert numbered([["the", "cat"], [], ["The", "cat", "the"]]) == [[0, 1], [], [2, 1, 0]]
