"""A block of one text while it is being filled in."""

import math
from collections.abc import Callable, Iterator, Sequence

from dreamlm.core.generation.filling import BlockView
from dreamlm.core.generation.ngram import NgramHoles
from dreamlm.core.generation.row import Row


class Draft:
    """The tokens of a block, known and open. Mutable: it belongs to one block of one call of `generate`.

    A slot holds a token and is asked for the one behind it; the last slot's answer begins the next block.
    """

    def __init__(self, row: Row, known: Sequence[int], size: int, no_repeat_ngram: int) -> None:
        """known: the block's tokens that the text has already, at least one."""
        self.row = row
        self.open = list(range(len(known) - 1, size))
        """Slots whose answer is not decided."""
        self.asked = len(self.open)
        """How many were open at first."""
        self._first, self._size = len(known), size
        self._tokens: list[int | None] = [*known, *[None] * self.asked]
        self._log_probabilities = [0.0] * self.asked
        self._holes = [NgramHoles(no_repeat_ngram, row.history, self.asked)] if no_repeat_ngram else []

    def seen(self, mask_id: int) -> list[int]:
        """What the model reads in each slot."""
        return [mask_id if token is None else token for token in self._tokens[: self._size]]

    def is_early(self, slot: int, min_new_tokens: int) -> bool:
        """Whether the document may not end with the slot's answer yet."""
        return self.row.new_tokens + slot + 1 - self._first < min_new_tokens

    def blocked(self, slot: int) -> set[int]:
        """Tokens that would repeat an n-gram of the text as the slot's answer."""
        return {token for holes in self._holes for token in holes.blocked(slot + 1 - self._first)}

    def repeats(self, slot: int, token: int) -> bool:
        """Whether the answer would do so, or complete one n-gram twice."""
        return any(holes.repeats(slot + 1 - self._first, token) for holes in self._holes)

    def put(self, slot: int, token: int, log_probability: float) -> None:
        """Decide a slot's answer."""
        hole = slot + 1 - self._first
        self._tokens[slot + 1], self._log_probabilities[hole] = token, log_probability
        for holes in self._holes:
            holes.put(hole, token)
        self.open.remove(slot)

    def end_at(self, slot: int, filler_id: int) -> None:
        """Nothing is asked behind a slot whose answer ends the document; filler stands there, as in training."""
        behind = slot + 2
        self._tokens[behind:] = [filler_id] * (len(self._tokens) - behind)
        self.open = [one for one in self.open if one <= slot]

    def view(self, number: int, step: int, steps: int) -> BlockView:
        """What the block looks like now.  number: of the block in its text."""
        tokens = tuple(self._tokens[self._first :])
        decided = zip(tokens, self._log_probabilities, strict=True)
        probabilities = tuple(0.0 if token is None else math.exp(found) for token, found in decided)
        return BlockView(self.row.index, number, step, steps, tokens, probabilities)

    def finish(self, on_text: Callable[[int, str], None]) -> None:
        """Hand the answers to the row in the order of the text; what stands behind its end is dropped."""
        text = "".join(self.row.push(token, found) for token, found in self._answers())
        if text:
            on_text(self.row.index, text)

    def _answers(self) -> Iterator[tuple[int, float]]:
        for token, log_probability in zip(self._tokens[self._first :], self._log_probabilities, strict=True):
            if self.row.finish_reason is not None:
                return
            assert token is not None, "the block is not full"
            yield token, log_probability
