"""Held-out documents, each from its own beginning and at its own length.

1. a document is one row, or several where it is longer than a window: pieces that share one token
2. pieces are sorted by length, longest first; a batch takes as many as fit into the room of `rows` windows
3. a batch is as long as its longest piece, so that padding is only what its other rows lack

Shapes: D documents, N pieces, T targets of a window.
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias, final, overload

import numpy as np
import numpy.typing as npt

from dreamlm.core.pictures import Shown, gathered
from dreamlm.core.types import Batch

Fill: TypeAlias = Callable[[int, int, npt.NDArray[np.int64]], Sequence[Shown]]
"""Given a source and a place in it, fills an array with the tokens from there on; returns the pictures they show."""


@final
class ByDocument:
    """Implements `core.types.Documents`; each token is predicted once, from its own document alone."""

    def __init__(
        self,
        source_D: npt.NDArray[np.int64],
        start_D: npt.NDArray[np.int64],
        targets_D: npt.NDArray[np.int64],
        fill: Fill,
        *,
        seq_length: int,
        padding_id: int,
        utf8_bytes: int,
        places: int = 0,
    ) -> None:
        """A document has one token more than targets: the one that opens it; its last target opens the next.

        places: how many of the targets are places of pictures, which nobody predicts.
        """
        self.tokens, self.utf8_bytes = int(targets_D.sum()) - places, utf8_bytes
        self._fill, self._padding_id = fill, padding_id
        self._longest = min(seq_length, int(targets_D.max(initial=1)))
        pieces_D = -(-targets_D // seq_length)
        owner_N = np.arange(len(targets_D)).repeat(pieces_D)
        offset_N = (np.arange(len(owner_N)) - (np.cumsum(pieces_D) - pieces_D)[owner_N]) * seq_length
        length_N = np.minimum(seq_length, targets_D[owner_N] - offset_N)
        order_N = np.argsort(-length_N, kind="stable")
        self._source_N, self._length_N = source_D[owner_N][order_N], length_N[order_N]
        self._start_N = (start_D[owner_N] + offset_N)[order_N]
        self.owner_N = owner_N[order_N]

    def by_document(self) -> "ByDocument":
        return self

    def batches(self, rows: int) -> Sequence[Batch]:
        """Read when asked for, longest pieces first; none holds more places than `rows` windows."""
        begins = [0]
        while begins[-1] < len(self._length_N):
            begins.append(begins[-1] + rows * self._longest // int(self._length_N[begins[-1]]))
        return _Batches(self, begins[:-1], len(self._length_N))

    def read(self, begin: int, end: int) -> Batch:
        """The pieces of these numbers, longest first; what a row lacks is padding, document -1."""
        tokens = np.full((end - begin, int(self._length_N[begin]) + 1), self._padding_id, dtype=np.int64)
        documents = np.full(tokens.shape, -1, dtype=np.int32)
        shown = []
        for row, piece in enumerate(range(begin, end)):
            real = int(self._length_N[piece]) + 1
            shown.append(self._fill(int(self._source_N[piece]), int(self._start_N[piece]), tokens[row, :real]))
            documents[row, :real] = 0
        return Batch(
            tokens=tokens,
            documents=documents,
            sources=self._source_N[begin:end].astype(np.int32),
            pictures=gathered(shown, tokens.shape[1]),
        )


@final
class _Batches(Sequence[Batch]):
    """Batches of pieces by the numbers of their first ones."""

    def __init__(self, whole: ByDocument, begins: Sequence[int], end: int) -> None:
        self._whole, self._begins, self._end = whole, begins, end

    def __len__(self) -> int:
        return len(self._begins)

    @overload
    def __getitem__(self, number: int) -> Batch: ...
    @overload
    def __getitem__(self, number: slice) -> list[Batch]: ...
    def __getitem__(self, number: int | slice) -> Batch | list[Batch]:
        if isinstance(number, slice):
            return [self[position] for position in range(*number.indices(len(self)))]
        position = range(len(self))[number]
        end = self._begins[position + 1] if position + 1 < len(self) else self._end
        return self._whole.read(self._begins[position], end)
