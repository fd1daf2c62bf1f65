"""The documents of one source as a single run of tokens, read anywhere at the cost of what is read."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from dreamlm.data_sources.shards import Shard


class TokenSequence:
    """All shards of a source end to end, closed by one virtual end-of-document token.

    The virtual token gives the last document's last real token something to predict. `length` counts it.
    """

    def __init__(
        self, shards: Sequence[Callable[[], Shard]], token_counts: Sequence[int], end_of_document_id: int
    ) -> None:
        """`shards` open a shard when it is first touched; `token_counts` are their lengths."""
        self._shards = tuple(shards)
        self._offsets = np.concatenate([[0], np.cumsum(token_counts, dtype=np.int64)]).astype(np.int64)
        self._end_of_document_id = end_of_document_id
        self.length = int(self._offsets[-1]) + 1

    def read(self, start: int, tokens: npt.NDArray[np.int64], starts_document: npt.NDArray[np.bool_]) -> None:
        """Fill both arrays of n from position `start` on; `start + n` must not exceed `length`.

        `starts_document` is set to True where a document begins, and is expected all False.
        """
        stop = start + len(tokens)
        if stop == self.length:
            tokens[-1], starts_document[-1] = self._end_of_document_id, True
            stop -= 1
        number = int(np.searchsorted(self._offsets, start, side="right")) - 1
        position = start
        while position < stop:
            offset = int(self._offsets[number])
            shard, end = self._shards[number](), min(stop, int(self._offsets[number + 1]))
            tokens[position - start : end - start] = shard.tokens[position - offset : end - offset]
            inside = slice(*np.searchsorted(shard.document_starts, (position - offset, end - offset)))
            starts_document[shard.document_starts[inside] + (offset - start)] = True
            position, number = end, number + 1

    def inputs(self, start: int, stop: int) -> list[str]:
        """`INPUT, document N of shard M` for every document that touches the positions."""
        names = []
        for number, open_shard in enumerate(self._shards):
            offset, end = int(self._offsets[number]), int(self._offsets[number + 1])
            if offset < stop and start < end:
                shard = open_shard()
                first = int(np.searchsorted(shard.document_starts, max(start - offset, 0), side="right")) - 1
                last = int(np.searchsorted(shard.document_starts, min(stop, end) - offset))
                names += [
                    f"{shard.inputs[shard.sources[document]]}, document {document} of shard {number}"
                    for document in range(first, last)
                ]
        return names


def cut(
    sequence: TokenSequence, start: int, packing: str, tokens: npt.NDArray[np.int64], documents: npt.NDArray[np.int32]
) -> None:
    """Fill one row of a batch, tokens and document indices (0 for the document the row starts in), from `start` on."""
    starts_document = np.zeros(len(tokens), dtype=np.bool_)
    sequence.read(start, tokens, starts_document)
    if packing == "document":
        starts_document[0] = False
        np.cumsum(starts_document, out=documents)
    else:
        documents[:] = 0
