"""The two ways to turn text into ids: `tokenizers`, and `gigatoken` where it is installed and proves itself equal.

The two know Unicode of different years: to one a code point is a letter already, to the other it is nothing yet. Which
code points that concerns nobody says, so documents with one that Python's Unicode does not have go to the reference.
"""

import json
import unicodedata
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import chain, groupby
from typing import Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from dreamlm.core.tokenizer import Tokenizer

EncoderName: TypeAlias = Literal["gigatoken", "tokenizers"]
Encoded: TypeAlias = tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]

# What byte-level tokenizers are known to disagree about, besides the corpus itself.
PROBES = (
    "it's I'LL they've CAN'T o'clock ''quoted''",
    "  leading,  double   and trailing spaces   \n\n\t\tindented\r\nline \n \n end  ",
    "1234567890 12,345.678 3.14e-10 0x1F ½ ² Ⅷ ٣٤٥",
    "naïve Ünïcödé Привет мир 你好世界 こんにちは नमस्ते สวัสดี שלום",
    "e\u0301 \u200b\u200d\u00a0\u3000\u2028\ufeff \U0001f468\u200d\U0001f469\u200d\U0001f467 \ufffd\x85\x1c",
    "def f(x):\n    return {'a': [1, 2], \"b\": x ** 2}  # comment\n\n\n",
    "https://example.org/a_b?c=d&e=%20 snake_case camelCase ... !!! ???! --- ===",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
)

SCRIPTS_END = 0x40000
"""Unicode has no letters from here on, and plans none."""


class Encoder(Protocol):
    """Ids of many documents at once, without special tokens."""

    name: EncoderName
    batch_bytes: int
    """How much text to give it at once."""
    process_bytes: int
    """How much text it encodes while a process starts; less is not worth a process."""

    def encode(self, texts: Sequence[bytes]) -> Encoded:
        """UTF-8 documents to the ids of all of them end to end, and how many each document has."""
        ...


class TokenizersEncoder:
    """The reference: what `Tokenizer.encode` itself uses."""

    name: EncoderName = "tokenizers"
    batch_bytes = 1 << 15  # larger batches leave a heap behind that grows with the input
    process_bytes = 2 * 2**20

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def encode(self, texts: Sequence[bytes]) -> Encoded:
        """See `Encoder`."""
        ids = self._tokenizer.encode_batch([text.decode() for text in texts])
        lengths = np.array([len(document) for document in ids], dtype=np.int64)
        flat = np.fromiter((token for document in ids for token in document), np.uint32, int(lengths.sum()))
        return flat, lengths


class GigatokenEncoder:
    """A much faster implementation of the same algorithms, but for documents with unassigned code points.

    Raises: ImportError when it is not installed whole.
    """

    name: EncoderName = "gigatoken"
    batch_bytes = 1 << 18
    process_bytes = 64 * 2**20

    def __init__(self, tokenizer: Tokenizer) -> None:
        import awkward  # type: ignore[import-untyped]  # comes with gigatoken
        import gigatoken

        definition = json.loads(tokenizer.backend.to_str())
        # gigatoken would always read special strings in text as special tokens.
        definition["added_tokens"] = [token for token in definition["added_tokens"] if not token["special"]]
        definition["post_processor"] = None
        self._backend = gigatoken.Tokenizer.from_json(json.dumps(definition))
        self._awkward = awkward
        self._reference = TokenizersEncoder(tokenizer)

    def encode(self, texts: Sequence[bytes]) -> Encoded:
        """See `Encoder`; on the calling thread alone, where it is fast."""
        ids, lengths = self._fast(texts)
        unsure = [number for number, text in enumerate(texts) if has_unassigned(text)]
        if not unsure:
            return ids, lengths
        documents = np.split(ids, np.cumsum(lengths)[:-1])
        for number in unsure:
            documents[number], lengths[[number]] = self._reference.encode([texts[number]])
        return np.concatenate(documents), lengths

    def _fast(self, texts: Sequence[bytes]) -> Encoded:
        ids = self._backend.encode_batch(list(texts), parallel=False)
        lengths = self._awkward.to_numpy(self._awkward.num(ids)).astype(np.int64)
        return self._awkward.to_numpy(self._awkward.flatten(ids)).astype(np.uint32), lengths


def has_unassigned(text: bytes) -> bool:
    """Whether UTF-8 text has a code point that Unicode, as Python knows it, has given to no character yet.

    Cost: of most text, a fraction of what encoding it takes.
    """
    if text.isascii():
        return False
    characters = text.decode()
    # No code point that is not assigned is printable, and of the others few are not.
    printable = characters.replace("\n", "").replace("\t", "").isprintable()
    return not printable and any(unicodedata.category(character) == "Cn" for character in set(characters))


@cache
def newest_probe() -> str:
    """What Unicode took in lately, each character where its kind decides how text is divided.

    That begins or ends a run of characters, so the first and the last of each run are here.
    """
    runs = [list(run) for known, run in groupby(range(SCRIPTS_END), _is_character) if known]
    newest = [chr(point) for run in runs for point in (run[0], run[-1])]
    return " ".join(f"{character}'s a{character}b {character}1" for character in newest)


def _is_character(point: int) -> bool:
    return unicodedata.category(chr(point)) not in ("Cn", "Cs")


ENCODERS: dict[EncoderName, type[TokenizersEncoder] | type[GigatokenEncoder]] = {
    "gigatoken": GigatokenEncoder,
    "tokenizers": TokenizersEncoder,
}


def build_encoder(name: EncoderName, tokenizer: Tokenizer) -> Encoder:
    """The encoder of that name."""
    return ENCODERS[name](tokenizer)


def choose_encoder(tokenizer: Tokenizer, sample: Iterable[bytes]) -> tuple[EncoderName, str]:
    """The fastest encoder that gives exactly the ids of `tokenizers` on the sample, and why it was chosen."""
    try:
        fast = GigatokenEncoder(tokenizer)
    except ImportError as error:
        return "tokenizers", f"gigatoken cannot be used (the extra `fast` brings it whole): {error}"
    except Exception as error:  # noqa: BLE001  # whatever keeps it from reading this tokenizer, the reference can
        return "tokenizers", f"gigatoken cannot read this tokenizer: {error}"
    specials = f"{tokenizer.end_of_document}a {tokenizer.padding} {tokenizer.end_of_document[:-1]}"
    reference, compared = TokenizersEncoder(tokenizer), 0
    for text in chain((probe.encode() for probe in (*PROBES, specials, newest_probe())), sample):
        (expected, _), (found, _) = reference.encode([text]), fast.encode([text])
        if not np.array_equal(found, expected):
            return "tokenizers", "gigatoken gave other ids for a sample of the corpus"
        compared += len(text)
    return "gigatoken", f"it gave the ids of tokenizers for {compared:,} bytes of sample text"
