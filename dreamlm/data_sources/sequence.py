"""The documents of one source as a single run of tokens, read anywhere at the cost of what is read."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from dreamlm.core.pictures import Shown
from dreamlm.data_sources.shards import Shard


class TokenSequence:
    """All shards of a source end to end, closed by one virtual end-of-document token.

    The virtual token gives the last document's last real token something to predict. `length` counts it.
    """

    def __init__(
        self,
        shards: Sequence[Callable[[], Shard]],
        token_counts: Sequence[int],
        end_of_document_id: int,
        vocab_size: int,
    ) -> None:
        """`shards` open a shard when it is first touched; `token_counts` are their lengths.

        `vocab_size`: the id that stands for the first place of a picture.
        """
        self._shards = tuple(shards)
        self._vocab_size = vocab_size
        self._offsets = np.concatenate([[0], np.cumsum(token_counts, dtype=np.int64)]).astype(np.int64)
        self._end_of_document_id = end_of_document_id
        self.length = int(self._offsets[-1]) + 1

    def read(
        self, start: int, tokens: npt.NDArray[np.int64], starts_document: npt.NDArray[np.bool_]
    ) -> Sequence[Shown]:
        """Fill both arrays of n from position `start` on; `start + n` must not exceed `length`.

        `starts_document` is set to True where a document begins, and is expected all False. A place of a picture
        becomes the token -1 - its number; the pictures of which places are there are returned, none of them read yet.
        """
        shown: list[Shown] = []
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
            if shard.places:
                ids = tokens[position - start : end - start]
                np.copyto(ids, self._vocab_size - 1 - ids, where=ids >= self._vocab_size)
                shown += _shown(shard, position - offset, end - offset, offset - start)
            position, number = end, number + 1
        return shown

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


def _shown(shard: Shard, start: int, stop: int, column: int) -> list[Shown]:
    """The pictures of which places stand at positions `start` to `stop` of a shard, whose first is at `column`."""
    first = int(np.searchsorted(shard.document_starts, start - 1 - shard.places, side="right"))
    last = int(np.searchsorted(shard.document_starts, stop - 1))
    found = []
    for document in range(first, last):
        begin = int(shard.document_starts[document]) + 1
        end = min(begin + shard.places, stop)
        found.append(Shown(max(begin, start) + column, end + column, shard.pixels[shard.pictures[document]]))
    return found


def cut(
    sequence: TokenSequence, start: int, packing: str, tokens: npt.NDArray[np.int64], documents: npt.NDArray[np.int32]
) -> Sequence[Shown]:
    """Fill one row of a batch, tokens and document indices (0 for the document the row starts in), from `start` on.

    Returns the pictures that the row shows.
    """
    starts_document = np.zeros(len(tokens), dtype=np.bool_)
    shown = sequence.read(start, tokens, starts_document)
    if packing == "document":
        starts_document[0] = False
        np.cumsum(starts_document, out=documents)
    else:
        documents[:] = 0
    return shown
