"""Claims about cleaned text and about what is called garbage."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamlm.data_sources.cleaning import clean_text, encoding_defect, extraction_defect

ANY_TEXT = st.text(st.characters(exclude_categories=()))

ENGLISH = "It was the best of times, it was the worst of times, it was the age of wisdom. " * 8
GERMAN = (
    "Die Bundesregierung hat gestern lange über neue Regeln gesprochen, während draußen der Regen fiel "
    "und niemand so recht wusste, ob eine Geschwindigkeitsbegrenzung den Verkehr wirklich sicherer machen würde. "
    "Die Opposition hält das alles für Unsinn und will im Herbst noch einmal darüber reden, wie sie gestern sagte. "
) * 5
FINNISH = "Kaikki ihmiset syntyvät vapaina ja tasavertaisina arvoltaan ja oikeuksiltaan joka paikassa. " * 8
CZECH = "Všichni lidé rodí se svobodní a sobě rovní co do důstojnosti a práv, jsou nadáni rozumem. " * 8
FRENCH = "Où êtes-vous allés cet été ? À la forêt, dit-il, où l\u2019élève a été très étonné. " * 8
RUSSIAN = "Все люди рождаются свободными и равными в своём достоинстве и правах. " * 8  # noqa: RUF001
JAPANESE = "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。" * 12
LANGUAGES = {
    "english": ENGLISH,
    "german": GERMAN,
    "finnish": FINNISH,
    "czech": CZECH,
    "french": FRENCH,
    "russian": RUSSIAN,
    "japanese": JAPANESE,
}


@given(ANY_TEXT)
def test_clean_text_always_encodes_to_utf8(text: str) -> None:
    clean_text(text).encode("utf-8")


@given(ANY_TEXT)
def test_cleaning_twice_changes_nothing(text: str) -> None:
    once = clean_text(text)
    assert clean_text(once) == once


@given(ANY_TEXT)
def test_clean_text_has_no_control_characters_and_is_nfc(text: str) -> None:
    cleaned = clean_text(text)
    assert not [c for c in cleaned if unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t"]
    assert unicodedata.is_normalized("NFC", cleaned)


@given(st.text(st.sampled_from("abc .,\n\t"), min_size=1))
def test_cleaning_plain_text_loses_no_visible_character(text: str) -> None:
    assert clean_text(text).split() == text.split()


def test_indentation_of_code_stays() -> None:
    assert clean_text("def f():\r\n\tif x:\r\n        return  1   \r\n") == "def f():\n\tif x:\n        return  1"


def test_a_surrogate_pair_becomes_its_character_and_a_lone_one_leaves() -> None:
    assert clean_text("a\ud83d\ude00b\ud800c") == "a\U0001f600bc"


def test_ligatures_and_odd_spaces_become_plain() -> None:
    assert clean_text("\ufb01nd\u00a0the\u2003of\ufb01ce\u00ad\u200b") == "find the office"


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_honest_language_is_called_garbage(language: str) -> None:
    assert encoding_defect(LANGUAGES[language]) is None
    assert extraction_defect(LANGUAGES[language]) is None


@pytest.mark.parametrize("language", ["french", "german", "russian", "czech"])
@pytest.mark.parametrize("wrong", ["latin-1", "cp1252"])
def test_utf8_read_in_another_encoding_is_mojibake(language: str, wrong: str) -> None:
    assert encoding_defect(LANGUAGES[language].encode().decode(wrong, "replace")) in ("mojibake", "unknown characters")


@pytest.mark.parametrize("text", ["/g123/g45 /g7/g8 " * 20, "(cid:12)(cid:7) " * 20, "/uni0041/uni0042 " * 20])
def test_glyph_names_are_no_text(text: str) -> None:
    assert encoding_defect(text) == "glyph names instead of text"


def test_a_path_is_no_glyph_name() -> None:
    assert encoding_defect("Look into /usr/share/doc/python3.11/html and /home/me. " * 5) is None


def test_replacement_characters_are_counted() -> None:
    assert encoding_defect("wh\ufffdt i\ufffd this") == "unknown characters"
    assert encoding_defect(ENGLISH + "\ufffd") is None


def test_what_failed_extractions_look_like_is_named() -> None:
    shifted = "".join(chr(ord(c) - 29) if c.isalpha() else c for c in ENGLISH.lower())
    rot = ENGLISH.lower().translate(str.maketrans("aeiouhrstn", "xkwzqjvbcd"))
    found = {
        "glued": extraction_defect(ENGLISH.replace(" ", "")),
        "partly glued": extraction_defect(ENGLISH * 2 + ENGLISH.replace(" ", "").replace(",", "")),
        "torn": extraction_defect(" ".join(ENGLISH.replace(" ", ""))),
        "not a language": extraction_defect(rot),
        "table": extraction_defect("Total 12.50 99.75 1,204 33.10 87.20 11.00\n" * 20),
        "repeated": extraction_defect((ENGLISH[:78] + "\n") * 12),
    }
    assert found == {
        "glued": "glued words",
        "partly glued": "glued words",
        "torn": "torn words",
        "not a language": "not a language",
        "table": "few letters",
        "repeated": "repeated lines",
    }
    assert extraction_defect(shifted) is not None


def test_short_text_is_not_judged_by_statistics() -> None:
    assert extraction_defect("Bzzt 12 34") is None
