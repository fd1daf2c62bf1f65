"""Which segments of the texts the model has read to their ends: for those who look on while it writes.

A model without modules has no segments that anything is made of, and nothing is told.

Shapes: R rows still writing, T tokens read at once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor

from dreamlm.core.generation.row import Row
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.nn.phase import Phase
from dreamlm.core.nn.signal import Carry, Signal
from dreamlm.core.nn.vision.view import NO_PLACES, View


@dataclass(frozen=True)
class Passage:
    """The tokens of one text that make up a segment."""

    prompt: int
    """Number of the text's prompt."""
    reading: int
    """How often the text has outgrown the window and was read again from a later beginning."""
    number: int
    """Which segment of this reading it is, from 0."""
    begin: int
    """Place of its first token in the text; token 0 is the end of document that opens every text."""
    token_ids: tuple[int, ...]
    prompt_tokens: int
    """How many of them, from the first on, are the prompt's."""


@dataclass(frozen=True)
class CompletedSegments:
    """Segments that ended with the same column of a batch."""

    passages: tuple[Passage, ...]
    rows: tuple[int, ...]
    """The row of the carry that each stands in."""
    carry: Carry
    """Behind the column: every module has written what it makes of these segments."""


OnSegments = Callable[[CompletedSegments], None]


def ignore_segments(completed: CompletedSegments) -> None:
    """For callers who do not look on."""


class Reader:
    """Reads tokens of rows. Mutable: it knows what it has told of each text, and belongs to one call of `generate`.

    Each segment of a reading is told once, though a text is read again when one of its neighbours outgrows the window.
    """

    def __init__(self, model: DreamLM, on_segments: OnSegments) -> None:
        self.model, self._on_segments = model, on_segments
        self._newest: dict[int, tuple[int, Passage]] = {}
        """By prompt: where the reading begins in the text, and the last passage told of it."""

    def read(
        self,
        rows: Sequence[Row],
        tokens_RT: Int[Tensor, "R T"],
        documents_RT: Int[Tensor, "R T"],
        carry: Carry,
        boundaries: bool,
        view: View = NO_PLACES,
    ) -> Signal:
        """What the model itself gives; the rows already hold the tokens."""
        signals = []
        for signal in self.model.segments(tokens_RT, documents_RT, carry, boundaries, view):
            if self.model.cognition:
                self._tell(rows, signal.segment.phase, signal.carry)
            signals.append(signal)
        return self.model.finished(signals)

    def _tell(self, rows: Sequence[Row], phase: Phase, carry: Carry) -> None:
        padding_R = phase.left_padding or (0,) * len(rows)
        ended = phase.completed(len(rows))
        found = {place: self._passage(rows[place], phase.end - padding_R[place], phase.size) for place in ended}
        fresh = {place: passage for place, passage in found.items() if passage is not None}
        if fresh:
            self._on_segments(CompletedSegments(tuple(fresh.values()), tuple(fresh), carry))

    def _passage(self, row: Row, seen: int, size: int) -> Passage | None:
        """The last `size` of the `seen` tokens of a row's context; None when they were told before."""
        reading, number = 0, seen // size - 1
        if row.index in self._newest:
            origin, last = self._newest[row.index]
            if origin == row.begin and number <= last.number:
                return None
            reading = last.reading + (origin != row.begin)
        begin = row.begin + seen - size
        own = row.prompt_length - begin
        passage = Passage(
            row.index,
            reading,
            number,
            begin,
            tuple(row.tokens[begin : begin + size]),
            min(size, max(0, own)),
        )
        self._newest[row.index] = row.begin, passage
        return passage
