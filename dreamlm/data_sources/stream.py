"""The order in which a corpus is trained on: shuffled windows, mixed from its sources, resumed from a small cursor."""

from collections.abc import Sequence
from dataclasses import replace
from math import inf
from typing import Annotated, Literal, TypeAlias

import numpy as np
from pydantic import Field, ValidationInfo, field_validator

from dreamlm.core.config import ConfigModel
from dreamlm.core.errors import DataError, UserMistake
from dreamlm.core.pictures import gathered
from dreamlm.core.rng import derive_seed
from dreamlm.core.types import Batch, Cursor, Window
from dreamlm.data_sources.corpus import Corpus
from dreamlm.data_sources.mixing import MixStrategy, next_sources, normalised, resolve_weights, shares
from dreamlm.data_sources.order import shuffled
from dreamlm.data_sources.sequence import cut

Packing: TypeAlias = Literal["document", "concat"]
Weight: TypeAlias = Annotated[float, Field(ge=0)]


class CorpusStream:
    """Implements `core.types.Stream` over the training part of a corpus.

    Each source has its own shuffle for every epoch, which depends on the seed and the source's name alone: adding a
    source changes the order of no other. Ranks take slices of one draw, so their number changes nothing either.
    """

    class Config(ConfigModel):
        """How windows are drawn from the sources and packed."""

        mix_strategy: MixStrategy = "round_robin"
        """How sources take turns: one window each, a whole epoch each, or in proportion to `source_weights`."""
        source_weights: dict[str, Weight] | list[Weight] | None = Field(default=None)
        """Share of windows by source name, or in the order of `sources`; only with the strategy `weighted`.
        Not inherited by a preset that has `sources` of its own."""
        packing: Packing = "document"
        """Whether a token sees only its own `document`, or everything before it in the window (`concat`)."""

        @field_validator("source_weights")
        @classmethod
        def _weights_mean_something(
            cls, given: dict[str, float] | list[float] | None, others: ValidationInfo
        ) -> dict[str, float] | list[float] | None:
            if given is None:
                return given
            if others.data.get("mix_strategy", "weighted") != "weighted":  # absent when it is a mistake itself
                raise ValueError("needs mix_strategy 'weighted'")
            if not 0 < sum(given.values() if isinstance(given, dict) else given) < inf:
                raise ValueError("must add up to a finite number above 0")
            return given

    def __init__(self, corpus: Corpus, config: "CorpusStream.Config", seq_length: int, seed: int) -> None:
        """Raises: DataError for a source shorter than a window; UserMistake for weights that fit no source, or windows
        that a picture would fill.
        """
        self.corpus, self.config, self.seed = corpus, config, seed
        self.source_names, self.seq_length = corpus.source_names, seq_length
        self.weights = resolve_weights(config.source_weights, corpus.source_names, corpus.failed_names)
        self._sequences = [corpus.sequence(source, "train") for source in range(len(self.source_names))]
        for name, sequence in zip(self.source_names, self._sequences, strict=True):
            if sequence.length < seq_length + 1:
                what = f"source {name} has {sequence.length} tokens, a window needs {seq_length + 1}"
                hint = "add documents, leave the source out, or lower model.seq_length"
                raise DataError(what, where=str(corpus.folder), hint=hint)
        form = corpus.manifest.image_form
        if form is not None and seq_length <= form.places:
            what = f"a window of {seq_length} tokens may hold nothing but the {form.places} places of a picture"
            hint = f"set model.seq_length to more than {form.places}; a few times as much leaves room for captions"
            raise UserMistake(what, where="model.seq_length", hint=hint)

    @property
    def targets_per_window(self) -> float:
        """Targets of a window, in the mean over the mixture: all tokens but places of pictures."""
        drawn = shares(self.config.mix_strategy, self.weights, self.windows_per_epoch())
        shown = (self.corpus.share_of_places(source, "train") for source in range(len(drawn)))
        return self.seq_length * (1 - sum(share * places for share, places in zip(drawn, shown, strict=True)))

    def start(self) -> Cursor:
        """The cursor before the first window."""
        sources = len(self.source_names)
        return Cursor(samples=0, drawn=(0,) * sources, credit=(0.0,) * sources, weights=self.weights)

    def reweigh(self, cursor: Cursor, weights: Sequence[float]) -> Cursor:
        """The same place with other mixing weights, in the order of `source_names`; they act from the next window on.

        Raises: UserMistake when a weight is negative or infinite, or all are 0.
        """
        return replace(cursor, weights=normalised(weights))

    def windows_per_epoch(self) -> Sequence[int]:
        """How many windows one pass over each source has; the last one overlaps its neighbour to be full."""
        return [max(1, -(-(sequence.length - 1) // self.seq_length)) for sequence in self._sequences]

    def draw(self, cursor: Cursor, count: int) -> tuple[tuple[Window, ...], Cursor]:
        """The next `count` windows, and the cursor after them."""
        windows_per_epoch = self.windows_per_epoch()
        sources, credit = next_sources(self.config.mix_strategy, cursor, windows_per_epoch, count)
        chosen = np.asarray(sources, dtype=np.int64)
        drawn, windows = list(cursor.drawn), np.empty((count, 2), dtype=np.int64)
        for source in set(sources):
            rows = np.flatnonzero(chosen == source)
            epochs, positions = np.divmod(drawn[source] + np.arange(len(rows)), windows_per_epoch[source])
            for epoch in np.unique(epochs):
                key = derive_seed(self.seed, "window order", self.source_names[source], int(epoch))
                now = epochs == epoch
                windows[rows[now], 0] = epoch
                windows[rows[now], 1] = shuffled(positions[now], windows_per_epoch[source], key)
            drawn[source] += len(rows)
        after = replace(cursor, samples=cursor.samples + count, drawn=tuple(drawn), credit=credit)
        pairs = zip(sources, windows.tolist(), strict=True)
        return tuple(Window(source=source, index=index, epoch=epoch) for source, (epoch, index) in pairs), after

    def read(self, windows: Sequence[Window]) -> Batch:
        """The tokens of the windows, in their order. Cost: one copy of what is returned."""
        tokens = np.empty((len(windows), self.seq_length + 1), dtype=np.int64)
        documents = np.empty(tokens.shape, dtype=np.int32)
        shown = [
            cut(
                self._sequences[window.source],
                self._first_token(window),
                self.config.packing,
                tokens[row],
                documents[row],
            )
            for row, window in enumerate(windows)
        ]
        sources = np.array([window.source for window in windows], dtype=np.int32)
        pictures = gathered(shown, tokens.shape[1])
        return Batch(tokens=tokens, documents=documents, sources=sources, windows=tuple(windows), pictures=pictures)

    def describe(self, window: Window) -> Sequence[str]:
        """Names of the documents a window overlaps, for error messages."""
        start = self._first_token(window)
        name = self.source_names[window.source]
        inputs = self._sequences[window.source].inputs(start, start + self.seq_length + 1)
        return [f"{name}: {document}" for document in inputs]

    def _first_token(self, window: Window) -> int:
        last = self._sequences[window.source].length - 1 - self.seq_length
        return min(window.index * self.seq_length, last)
