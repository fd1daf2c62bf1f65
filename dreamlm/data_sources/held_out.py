"""Held-out documents cut into windows in order, so that a loss over them counts every token exactly once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from dreamlm.core.evaluation.by_document import ByDocument
from dreamlm.core.pictures import Shown, gathered
from dreamlm.core.rng import derive_seed
from dreamlm.core.types import Batch, Window
from dreamlm.data_sources.order import shuffled
from dreamlm.data_sources.sequence import TokenSequence, cut
from dreamlm.data_sources.shards import Shard


@dataclass(frozen=True)
class ValidationPart:
    """The validation shards of one source; `source` is its index in the corpus."""

    source: int
    name: str
    shards: Sequence[Shard]

    @property
    def tokens(self) -> int:
        """Tokens of all documents, each with its end-of-document token and without the places of its picture."""
        return sum(len(shard.tokens) for shard in self.shards) - self.places

    @property
    def places(self) -> int:
        """How many tokens stand for pictures."""
        return sum(shard.places * len(shard.document_starts) for shard in self.shards)


class HeldOutDocuments:
    """Implements `core.types.HeldOut`: windows of one source after the other, the last of each padded."""

    def __init__(
        self,
        parts: Sequence[ValidationPart],
        seq_length: int,
        packing: str,
        *,
        end_of_document_id: int,
        padding_id: int,
        vocab_size: int,
    ) -> None:
        self._parts, self._packing, self._padding_id = tuple(parts), packing, padding_id
        self._sequences = {
            part.source: TokenSequence(
                [_already_open(shard) for shard in part.shards],
                [len(shard.tokens) for shard in part.shards],
                end_of_document_id,
                vocab_size,
            )
            for part in parts
        }
        longest = max((sequence.length - 1 for sequence in self._sequences.values()), default=1)
        self._length = min(seq_length, longest)  # a longer window would hold padding only
        self.windows = [
            Window(source=source, index=index, epoch=0)
            for source, sequence in self._sequences.items()
            for index in range(-(-(sequence.length - 1) // self._length))
        ]
        self.tokens = sum(part.tokens for part in parts)
        self.utf8_bytes = sum(int(shard.document_bytes.sum()) for part in parts for shard in part.shards)

    @classmethod
    def sample(
        cls,
        parts: Sequence[ValidationPart],
        seq_length: int,
        max_tokens: int | None,
        packing: str,
        *,
        end_of_document_id: int,
        padding_id: int,
        vocab_size: int,
    ) -> "HeldOutDocuments":
        """Whole documents, `max_tokens` of them at most unless a source's first one alone is longer."""
        total = sum(part.tokens for part in parts)
        if max_tokens is not None and total > max_tokens:
            parts = [_sampled(part, max_tokens * part.tokens // total) for part in parts]
        return cls(
            parts,
            seq_length,
            packing,
            end_of_document_id=end_of_document_id,
            padding_id=padding_id,
            vocab_size=vocab_size,
        )

    def by_document(self) -> ByDocument:
        """The same documents, each from its own beginning."""
        lengths = [np.concatenate([shard.document_lengths for shard in part.shards]) for part in self._parts]
        return ByDocument(
            np.repeat([part.source for part in self._parts], [len(each) for each in lengths]),
            np.concatenate([np.cumsum(each) - each for each in lengths]),
            np.concatenate(lengths),
            self._fill,
            seq_length=self._length,
            padding_id=self._padding_id,
            utf8_bytes=self.utf8_bytes,
            places=sum(part.places for part in self._parts),
        )

    def _fill(self, source: int, start: int, tokens: npt.NDArray[np.int64]) -> Sequence[Shown]:
        return self._sequences[source].read(start, tokens, np.zeros(len(tokens), dtype=np.bool_))

    def batches(self, rows: int) -> "Batches":
        """The windows, `rows` at a time and read when asked for; the last batch is shorter."""
        return Batches(self, rows)

    def read(self, windows: Sequence[Window]) -> Batch:
        """The tokens of the windows; positions after the end of a source are padding, document -1."""
        tokens = np.full((len(windows), self._length + 1), self._padding_id, dtype=np.int64)
        documents = np.full(tokens.shape, -1, dtype=np.int32)
        shown = []
        for row, window in enumerate(windows):
            sequence, start = self._sequences[window.source], window.index * self._length
            real = min(self._length + 1, sequence.length - start)
            shown.append(cut(sequence, start, self._packing, tokens[row, :real], documents[row, :real]))
        sources = np.array([window.source for window in windows], dtype=np.int32)
        pictures = gathered(shown, tokens.shape[1])
        return Batch(tokens=tokens, documents=documents, sources=sources, windows=tuple(windows), pictures=pictures)


class Batches(Sequence[Batch]):
    """Batches of held-out windows, each read from the disk when it is taken."""

    def __init__(self, held_out: HeldOutDocuments, rows: int) -> None:
        self._held_out, self._rows = held_out, rows

    def __len__(self) -> int:
        return -(-len(self._held_out.windows) // self._rows)

    @overload
    def __getitem__(self, number: int) -> Batch: ...
    @overload
    def __getitem__(self, number: slice) -> list[Batch]: ...
    def __getitem__(self, number: int | slice) -> Batch | list[Batch]:
        if isinstance(number, slice):
            return [self[position] for position in range(*number.indices(len(self)))]
        start = range(len(self))[number] * self._rows
        return self._held_out.read(self._held_out.windows[start : start + self._rows])


def _already_open(shard: Shard) -> Callable[[], Shard]:
    return lambda: shard


def _sampled(part: ValidationPart, budget: int) -> ValidationPart:
    """Documents in a fixed shuffled order until the budget is spent, put back into their own order."""
    lengths = [shard.document_lengths - shard.places for shard in part.shards]
    every_length = np.concatenate(lengths)
    order = shuffled(np.arange(len(every_length)), len(every_length), derive_seed(0, "held-out sample", part.name))
    fitting = int(np.searchsorted(np.cumsum(every_length[order]), budget, side="right"))
    chosen = np.sort(order[: max(1, fitting)])
    owner = np.repeat(np.arange(len(lengths)), [len(counts) for counts in lengths])
    firsts = np.cumsum([0, *(len(counts) for counts in lengths[:-1])])
    picked = [
        _only(part.shards[number], chosen[owner[chosen] == number] - firsts[number])
        for number in np.unique(owner[chosen])
    ]
    return ValidationPart(part.source, part.name, picked)


def _only(shard: Shard, documents: npt.NDArray[np.int64]) -> Shard:
    """The named documents of a shard, their tokens copied into memory."""
    lengths = shard.document_lengths[documents]
    starts = shard.document_starts[documents]
    tokens: npt.NDArray[Any] = np.concatenate(
        [shard.tokens[start : start + length] for start, length in zip(starts, lengths, strict=True)]
    )
    return Shard(
        tokens=tokens,
        document_starts=np.cumsum([0, *lengths[:-1]], dtype=np.int64),
        document_bytes=shard.document_bytes[documents],
        sources=shard.sources[documents],
        inputs=shard.inputs,
        tokenizer_digest=shard.tokenizer_digest,
        pixels=shard.pixels,
        pictures=shard.pictures[documents] if shard.places else shard.pictures,
        places=shard.places,
    )
