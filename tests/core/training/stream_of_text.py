"""An in-memory stream for tests of the loop: windows of a fixed random text, in a shuffled order per epoch."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from dreamlm.core.types import Batch, Cursor, Window

VOCAB = 64


class TextStream:
    """Implements `core.types.Stream`; tokens depend on their predecessor, so that there is something to learn."""

    source_names: Sequence[str] = ("text",)

    def __init__(self, windows: int = 40, seq_length: int = 16, boundaries: bool = True) -> None:
        self.targets_per_window = float(seq_length)
        self.seq_length, self._windows, self._boundaries = seq_length, windows, boundaries
        random = np.random.default_rng(0)
        steps = random.integers(1, 4, size=windows * seq_length + 1)
        self._tokens = np.cumsum(steps) % VOCAB

    def start(self) -> Cursor:
        return Cursor(samples=0, drawn=(0,), credit=(0.0,), weights=(1.0,))

    def draw(self, cursor: Cursor, count: int) -> tuple[tuple[Window, ...], Cursor]:
        windows = []
        for sample in range(cursor.samples, cursor.samples + count):
            epoch, place = divmod(sample, self._windows)
            order = np.random.default_rng(epoch).permutation(self._windows)
            windows.append(Window(source=0, index=int(order[place]), epoch=epoch))
        return tuple(windows), replace(cursor, samples=cursor.samples + count, drawn=(cursor.samples + count,))

    def read(self, windows: Sequence[Window]) -> Batch:
        starts = [window.index * self.seq_length for window in windows]
        tokens = np.stack([self._tokens[start : start + self.seq_length + 1] for start in starts]).astype(np.int64)
        documents = np.zeros(tokens.shape, dtype=np.int32)
        if self._boundaries:
            documents[:, self.seq_length // 2 :] = 1
        return Batch(tokens, documents, np.zeros(len(windows), dtype=np.int32), tuple(windows))

    def describe(self, window: Window) -> Sequence[str]:
        return [f"text: window {window.index}"]

    def windows_per_epoch(self) -> Sequence[int]:
        return [self._windows]
