"""Text of tokens that stand for one byte each (`<0xE6>`), as SentencePiece has them for what no other token spells.

The `tokenizers` library decodes a run of them as a whole: one byte too few, and none of its characters is left.
"""

import json
import re
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

_BYTE = re.compile("<0x([0-9A-Fa-f]{2})>")


def falls_back(backend: Any) -> bool:
    """Whether a `tokenizers.Tokenizer` decodes such tokens to bytes."""
    return backend.decoder is not None and _uses_bytes(json.loads(backend.decoder.__getstate__()))


def _uses_bytes(decoder: dict[str, Any]) -> bool:
    return decoder["type"] == "ByteFallback" or any(map(_uses_bytes, decoder.get("decoders", ())))


def mended(tokens: Iterable[str]) -> Iterator[str]:
    """The tokens, with U+FFFD in the place of bytes that are no UTF-8, so that the rest of their run can be decoded."""
    for are_bytes, run in groupby(tokens, key=lambda token: _BYTE.fullmatch(token) is not None):
        if not are_bytes:
            yield from run
            continue
        for character in bytes(int(token[3:5], 16) for token in run).decode("utf-8", "replace"):
            yield from [REPLACEMENT] if character == REPLACEMENT else (f"<0x{byte:02X}>" for byte in character.encode())
