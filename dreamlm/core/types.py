"""The values that pass between folders. Small, frozen, and free of behaviour that needs more than themselves.

Shapes: B rows, T tokens of a window.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class ImageForm:
    """How a model takes pictures."""

    size: int
    """Pixels of a side; pictures are square."""
    places: int
    """Tokens that stand for one picture."""


@dataclass(frozen=True)
class Document:
    """One document of real text as a source yields it: cleaned, not yet tokenised."""

    text: str
    input: str
    """Which input it came from: a path relative to the source's root, or `dataset@revision/split`."""
    picture: npt.NDArray[np.uint8] | None = None
    """(3, H, W) the picture before the text, in the `ImageForm` asked for."""


@dataclass(frozen=True)
class Window:
    """Names one training sample: the `index`-th window of a source. `epoch` counts passes over the source."""

    source: int
    index: int
    epoch: int


@dataclass(frozen=True)
class Cursor:
    """Where a stream stands. JSON-able; the next window is a pure function of (seed, cursor)."""

    samples: int = 0
    drawn: tuple[int, ...] = ()
    """Windows taken from each source so far."""
    credit: tuple[float, ...] = ()
    """What the weighted mixing owes each source; sums to zero."""
    weights: tuple[float, ...] = ()
    """The mixing weights in force; part of the resume state."""


@dataclass(frozen=True)
class Pictures:
    """The pictures of a batch, each once for every document that shows any of its places."""

    pixels: npt.NDArray[np.uint8]
    """(I, 3, H, W) red, green, blue."""
    of: npt.NDArray[np.int32]
    """(B, T+1) which picture a place belongs to; -1 for a token that is none."""


@dataclass(frozen=True)
class Batch:
    """Rows of T+1 tokens: inputs are `tokens[:, :-1]`, targets `tokens[:, 1:]`.

    Each document begins with the tokenizer's end-of-document token, so the first real token is predicted from it,
    the last real token predicts the next document's, and every target is a real one.
    """

    tokens: npt.NDArray[np.int64]
    """(B, T+1) token ids; -1 - p is place p of a picture, which nobody predicts."""
    documents: npt.NDArray[np.int32]
    """(B, T+1) index of each token's document within its row, from 0; all 0 when packing is `concat`; -1 is padding."""
    sources: npt.NDArray[np.int32]
    """(B,) index of the source each row came from."""
    windows: tuple[Window, ...] = field(default=())
    pictures: Pictures | None = None
    """None when no row holds a place of a picture."""


class Captioned(Protocol):
    """Pictures with what is said of them, read when they are asked for."""

    def __len__(self) -> int:
        """How many pairs of a picture and a caption there are."""
        ...

    def pixels(self, numbers: Sequence[int]) -> npt.NDArray[np.uint8]:
        """(N, 3, H, W) the pictures of these pairs; of several captions of one picture each is a pair."""
        ...

    def caption(self, number: int) -> list[int]:
        """The caption's token ids, without a special token."""
        ...

    def text(self, number: int) -> str:
        """The caption."""
        ...


class Stream(Protocol):
    """A sequence of windows that is a pure function of its cursor."""

    @property
    def source_names(self) -> Sequence[str]:
        """Names by `Window.source`."""
        ...

    @property
    def seq_length(self) -> int:
        """Tokens that a window predicts; places of pictures among them are no targets."""
        ...

    @property
    def targets_per_window(self) -> float:
        """Targets of a window, in the mean over what training draws."""
        ...

    def start(self) -> Cursor:
        """The cursor before the first window."""
        ...

    def draw(self, cursor: Cursor, count: int) -> tuple[tuple[Window, ...], Cursor]:
        """The next `count` windows, and the cursor after them."""
        ...

    def read(self, windows: Sequence[Window]) -> Batch:
        """The tokens of the windows, in their order."""
        ...

    def describe(self, window: Window) -> Sequence[str]:
        """Names of the documents a window overlaps, for error messages."""
        ...

    def windows_per_epoch(self) -> Sequence[int]:
        """How many windows one pass over each source has."""
        ...


class Batches(Protocol):
    """Rows in which every token of some text is predicted once."""

    tokens: int
    """How many targets there are."""

    def batches(self, rows: int) -> Sequence[Batch]:
        """The rows, about as many at a time; rows may be padded (document -1), batches may differ in length."""
        ...


class HeldOut(Batches, Protocol):
    """Held-out documents cut into windows in order; every token is predicted once."""

    utf8_bytes: int
    """How many bytes of text those targets stand for (the base of bits per byte)."""

    def by_document(self) -> "Documents":
        """The same targets with each document from its own beginning, documents of similar length together."""
        ...


class Documents(HeldOut, Protocol):
    """Held-out documents, one in a row, the longest rows first; a document longer than a window has several rows."""

    owner_N: npt.NDArray[np.int64]
    """Number of the document that each row belongs to, over all batches in order."""
