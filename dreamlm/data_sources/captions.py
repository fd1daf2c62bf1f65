"""The pictures of a corpus with what is said of them, without the text around: for retrieval."""

from collections.abc import Callable, Sequence
from typing import final

import numpy as np
import numpy.typing as npt

from dreamlm.core.tokenizer import Tokenizer
from dreamlm.data_sources.shards import Shard


@final
class CaptionedDocuments:
    """Implements `core.types.Captioned` over shards whose documents have pictures, read when they are asked for."""

    def __init__(
        self, shards: Sequence[Callable[[], Shard]], document_counts: Sequence[int], tokenizer: Tokenizer
    ) -> None:
        """`shards` open a shard when it is first touched; `document_counts` say how many documents each has."""
        self._shards, self._tokenizer = tuple(shards), tokenizer
        self._ends = np.cumsum(document_counts, dtype=np.int64)

    def __len__(self) -> int:
        """How many pairs of a picture and a caption there are."""
        return int(self._ends[-1])

    def pixels(self, numbers: Sequence[int]) -> npt.NDArray[np.uint8]:
        """(N, 3, H, W) the pictures of these pairs."""
        return np.stack([shard.pixels[shard.pictures[document]] for shard, document in map(self._document, numbers)])

    def caption(self, number: int) -> list[int]:
        """The caption's token ids, without a special token."""
        shard, document = self._document(number)
        return shard.text(document)

    def text(self, number: int) -> str:
        """The caption."""
        return self._tokenizer.decode(self.caption(number))

    def _document(self, number: int) -> tuple[Shard, int]:
        """The shard of a pair, and its document there.  Raises: IndexError when there is no such pair."""
        place = int(number)
        if not 0 <= place < len(self):
            raise IndexError(f"no pair {place} of {len(self)}")
        shard = int(np.searchsorted(self._ends, place, side="right"))
        return self._shards[shard](), place - (int(self._ends[shard - 1]) if shard else 0)
