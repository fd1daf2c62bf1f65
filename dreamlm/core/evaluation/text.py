"""Any text as held-out windows, without a corpus."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from dreamlm.core.errors import DataError
from dreamlm.core.evaluation.by_document import ByDocument
from dreamlm.core.pictures import Shown
from dreamlm.core.tokenizer import Tokenizer
from dreamlm.core.types import Batch


class TextHeldOut:
    """One document, cut into windows that share one token each, so that every token is predicted once.

    An end-of-document token opens it and is its last target too, as in a corpus. Implements `core.types.HeldOut`.
    """

    def __init__(self, text: str, tokenizer: Tokenizer, seq_length: int) -> None:
        """Raises: DataError when there is no text, or it is no valid Unicode."""
        if not text:
            raise DataError("the text to evaluate on is empty")
        end = tokenizer.end_of_document_id
        self._ids = np.array([end, *tokenizer.encode(text), end], dtype=np.int64)
        self.tokens = len(self._ids) - 1
        self._length = min(seq_length, self.tokens)  # a longer window would hold padding only
        self._padding_id = tokenizer.padding_id
        self.utf8_bytes = len(text.encode())

    def by_document(self) -> ByDocument:
        """The same windows, the last at its own length."""

        def fill(source: int, start: int, tokens: npt.NDArray[np.int64]) -> Sequence[Shown]:
            tokens[:] = self._ids[start : start + len(tokens)]
            return ()

        nothing, targets = np.zeros(1, dtype=np.int64), np.array([self.tokens])
        return ByDocument(
            nothing, nothing, targets, fill,
            seq_length=self._length, padding_id=self._padding_id, utf8_bytes=self.utf8_bytes,
        )  # fmt: skip

    def batches(self, rows: int) -> Sequence[Batch]:
        """The windows in order, `rows` at a time; the last window is padded."""
        length = self._length
        windows = -(-self.tokens // length)
        tokens = np.full(windows * length + 1, self._padding_id, dtype=np.int64)
        tokens[: len(self._ids)] = self._ids
        documents = np.full(len(tokens), -1, dtype=np.int32)
        documents[: len(self._ids)] = 0
        places = np.arange(windows)[:, None] * length + np.arange(length + 1)
        return [
            Batch(
                tokens=tokens[places[begin : begin + rows]],
                documents=documents[places[begin : begin + rows]],
                sources=np.zeros(len(places[begin : begin + rows]), dtype=np.int32),
            )
            for begin in range(0, windows, rows)
        ]
