"""Text as it leaves a source: characters that harm are gone, and text that is no language is named as such.

Two judgements, because a wrong one costs data. `encoding_defect` finds what no honest text has and is asked about every
document. `extraction_defect` finds what a failed extraction looks like; it would also reject a table of numbers or a
page of code, so it is asked about text cut out of PDFs only. Both return a reason or None; the thresholds stand below.
"""

import re
import unicodedata
from collections import Counter

CLEANING_VERSION = 1
"""Part of every fingerprint and cache key: raise it when any function here gives another result."""

GLYPH_NAME_SHARE = 0.03
"""Share of the characters that belong to glyph names (`/g123`, `(cid:12)`) above which a text is dropped."""
UNKNOWN_CHARACTER_SHARE = 0.01
"""Share of U+FFFD and private-use characters above which a text is dropped."""
MOJIBAKE_SHARE = 0.01
"""Share of the characters in UTF-8-read-as-Latin-1 pairs above which a text is dropped."""
JUDGED_FROM_LETTERS = 200
"""Letters a text needs before statistics of its words mean anything."""
MEAN_WORD_LENGTHS = (2.2, 9.5)
"""Mean letters per word of a text with spaces; English has 4.7, Finnish 7.8; outside lies a failed extraction."""
GLUED_SHARE = 0.1
"""Share of the letters in words of over 20 letters above which a text with spaces is dropped; English prose stays below
0.01, German law below 0.06; of 168 real pages that had lost some of their spaces 145 were above."""
LETTER_SHARE = 0.45
"""Share of letters among visible characters below which a text is a table or noise; English prose has 0.95."""
VOWEL_SHARES = (0.24, 0.66)
"""Share of vowels among Latin letters; English has 0.38, Czech 0.41, a shifted font encoding below 0.2."""
REPEATED_LINE_SHARE = 0.5
"""Share of the lines that stand earlier in the text already above which it is dropped."""

_LINE_ENDS = re.compile("\r\n|[\r\v\f\x85\u2028\u2029]")
_SURROGATE_PAIRS = re.compile("[\ud800-\udbff][\udc00-\udfff]")
_HARMFUL_CHARACTERS = (
    "\x00-\x08\x0e-\x1f\x7f-\x9f"  # control characters except tab and line ends
    "\ud800-\udfff"  # lone surrogates: UTF-8 cannot hold them
    "\u00ad\u200b\u2060\ufeff"  # soft hyphen, zero-width space, word joiner, byte order mark
    "\ufdd0-\ufdef\ufffe\uffff"  # code points that are no characters
)
_HARMFUL = re.compile(f"[{_HARMFUL_CHARACTERS}]")
_SPACE_CHARACTERS = "\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000"
_SPACES = re.compile(f"[{_SPACE_CHARACTERS}]")
_UNUSUAL = re.compile(f"[\r\v\f\u2028\u2029\ufb00-\ufb06{_HARMFUL_CHARACTERS}{_SPACE_CHARACTERS}]")
"""Everything that any of the replacements touches: most texts hold none of it and are spared five passes."""
_TRAILING_SPACE = re.compile(r"(?<![ \t])[ \t]+\n")
_BLANK_LINES = re.compile(r"\n{3,}")
_LIGATURES = str.maketrans(
    {"ﬀ": "ff", "ﬁ": "fi", "ﬂ": "fl", "ﬃ": "ffi", "ﬄ": "ffl", "ﬅ": "st", "ﬆ": "st"},
)
_GLYPH_NAMES = re.compile(
    r"\(cid:\d+\)|/(?:[a-zA-Z]{1,2}\d{1,5}|[Gg]lyph\d+|cid\d+|uni[0-9A-Fa-f]{4}|gid\d+|index\d+)(?![a-z])"
)
_UNKNOWN = re.compile("[\ufffd\ue000-\uf8ff\U000f0000-\U0010ffff]")
_MOJIBAKE = re.compile(
    "[ÂÃÐÑ][\u0080-\u00bf\u0152-\u0192\u02c6\u02dc\u2013-\u203a\u20ac\u2122]"
    "|â[\u0080\u20ac][\u0080-\u00bf\u0152-\u0192\u02c6\u02dc\u2013-\u203a\u2122]?|ï»¿"
)
_WORDS = re.compile(r"[^\W\d_]+")
_UNSPACED_SCRIPTS = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")


def clean_text(text: str) -> str:
    """The text in NFC with plain line ends and spaces and no control characters; it always encodes to UTF-8.

    Idempotent. Indentation and inner spacing stay, so code remains code. A surrogate pair becomes its character.
    """
    if _UNUSUAL.search(text):
        text = plain_line_ends(text)
        text = _SURROGATE_PAIRS.sub(_joined_pair, text)
        text = _SPACES.sub(" ", text).translate(_LIGATURES)
        text = _HARMFUL.sub("", text)
    text = unicodedata.normalize("NFC", text)
    if " \n" in text or "\t\n" in text:
        text = _TRAILING_SPACE.sub("\n", text)
    if "\n\n\n" in text:
        text = _BLANK_LINES.sub("\n\n", text)
    return text.strip()


def plain_line_ends(text: str) -> str:
    """The text with every end of a line, a page or a paragraph as `\\n`."""
    return _LINE_ENDS.sub("\n", text)


def encoding_defect(text: str) -> str | None:
    """Why the text is no honest text in any language, or None. Sees most in text that was not cleaned yet."""
    visible = len(text)
    if visible == 0:
        return None
    if sum(map(len, _GLYPH_NAMES.findall(text))) > GLYPH_NAME_SHARE * visible:
        return "glyph names instead of text"
    if text.isascii():
        return None
    if len(_UNKNOWN.findall(text)) > UNKNOWN_CHARACTER_SHARE * visible:
        return "unknown characters"
    if sum(map(len, _MOJIBAKE.findall(text))) > MOJIBAKE_SHARE * visible:
        return "mojibake"
    return None


def extraction_defect(text: str) -> str | None:
    """Why text cut out of a PDF is no prose, or None. Texts of under `JUDGED_FROM_LETTERS` letters pass."""
    words = _WORDS.findall(text)
    letters = sum(map(len, words))
    visible = sum(map(len, text.split()))
    if visible >= JUDGED_FROM_LETTERS and letters < LETTER_SHARE * visible:
        return "few letters"
    if letters < JUDGED_FROM_LETTERS:
        return None
    if len(_UNSPACED_SCRIPTS.findall(text)) < 0.2 * letters:
        shortest, longest = MEAN_WORD_LENGTHS
        mean_length = letters / len(words)
        in_long_words = sum(len(word) for word in words if len(word) > 20)
        if mean_length > longest or in_long_words > GLUED_SHARE * letters:
            return "glued words"
        if mean_length < shortest:
            return "torn words"
    if not VOWEL_SHARES[0] <= _vowel_share(words) <= VOWEL_SHARES[1]:
        return "not a language"
    if _repeated_line_share(text) > REPEATED_LINE_SHARE:
        return "repeated lines"
    return None


def _joined_pair(match: re.Match[str]) -> str:
    return match.group().encode("utf-16-le", "surrogatepass").decode("utf-16-le")


def _vowel_share(words: list[str]) -> float:
    """Vowels among the Latin letters of the words, accents taken off; 0.4 when the text is mostly in other scripts."""
    counts = Counter(unicodedata.normalize("NFD", "".join(words)).casefold())
    latin = sum(counts[letter] for letter in "abcdefghijklmnopqrstuvwxyz")
    if latin < sum(map(len, words)) / 2:
        return 0.4
    return sum(counts[vowel] for vowel in "aeiouy") / latin


def _repeated_line_share(text: str) -> float:
    """Share of the non-empty lines that occur more than once; 0 for under ten lines."""
    counts = Counter(line.strip() for line in text.splitlines() if line.strip())
    lines = counts.total()
    return sum(count - 1 for count in counts.values()) / lines if lines >= 10 else 0.0
