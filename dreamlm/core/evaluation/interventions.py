"""What segments are shown instead of their own stack of thoughts, and reading a text that way.

    1. a segment is read as ever: its tokens attend to the stack that the carry shows, and a thought is written
    2. the thought goes onto the text's own stack, which nothing ever changes
    3. the carry shows the next segment what the intervention makes of that stack

Both readers see the shown stack: the tokens, and the queries that write the next thought. In a diffusion model the
slots of a block do too, since they read the carry before their segment.

Shapes: B rows, X = T + 1 tokens of a window, M thoughts of a stack, N texts.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, final

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Int
from torch import Tensor

from dreamlm.core.evaluation.thought_metrics import Trajectory
from dreamlm.core.modules.ring import Ring
from dreamlm.core.modules.state import ModuleState
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.nn.signal import Carry, Signal
from dreamlm.core.nn.vision.view import NO_PLACES, View
from dreamlm.core.rng import derive_seed

STACK = "thoughts"
"""Name of the stack in the state of a `thought_stack`."""


class Intervention(ABC):
    """A choice of what is shown; it depends on a text and its number, never on the rows beside it."""

    name: ClassVar[str]

    @abstractmethod
    def shown(self, own: Ring, text_B: npt.NDArray[np.int64], segments: int) -> Ring:
        """The stack for the segment after so many, of rows that hold the texts of these numbers."""


@final
@dataclass(frozen=True)
class TrueStack(Intervention):
    """The text's own thoughts."""

    name = "true"

    def shown(self, own: Ring, text_B: npt.NDArray[np.int64], segments: int) -> Ring:
        return own


@final
@dataclass(frozen=True)
class Zeroed(Intervention):
    """As many thoughts as there are, all of them zero: that there is a stack, without anything in it."""

    name = "zeroed"

    def shown(self, own: Ring, text_B: npt.NDArray[np.int64], segments: int) -> Ring:
        return Ring.of(torch.zeros_like(own.ordered()), own.count_B)


@final
@dataclass(frozen=True)
class Shuffled(Intervention):
    """The text's own thoughts in another order, drawn anew for each segment; one thought alone stays where it is."""

    name = "shuffled"
    seed: int

    def shown(self, own: Ring, text_B: npt.NDArray[np.int64], segments: int) -> Ring:
        order_BM = np.tile(np.arange(own.size), (len(text_B), 1))
        for row, (text, count) in enumerate(zip(text_B.tolist(), own.count_B.tolist(), strict=True)):
            generator = np.random.default_rng(derive_seed(self.seed, "shuffled stack", text, segments))
            order_BM[row, own.size - count :] = own.size - count + _other_order(count, generator)
        order = torch.from_numpy(order_BM).to(own.count_B.device)
        return Ring.of(own.ordered()[torch.arange(len(order), device=order.device)[:, None], order], own.count_B)


@final
@dataclass(frozen=True)
class Anothers(Intervention):
    """The thoughts that the text of another document had after as many segments; of a shorter one, its last ones."""

    name = "another's"
    thoughts: Sequence[Trajectory]
    """Of all texts."""
    donor_N: npt.NDArray[np.int64]
    """Whose thoughts each text is lent."""

    def shown(self, own: Ring, text_B: npt.NDArray[np.int64], segments: int) -> Ring:
        lent_BM, count_B = torch.zeros_like(own.ordered()), torch.zeros_like(own.count_B)
        for row, (text, count) in enumerate(zip(text_B.tolist(), own.count_B.tolist(), strict=True)):
            # Never more than the text has of its own.
            stack = self.thoughts[self.donor_N[text]][:segments][-count:] if count else ()
            if len(stack):
                lent_BM[row, -len(stack) :] = torch.as_tensor(stack).to(lent_BM).view(-1, *lent_BM.shape[2:])
            count_B[row] = len(stack)
        return Ring.of(lent_BM, count_B)


@final
@dataclass(frozen=True)
class Intervened:
    """Reading with an intervention between segments. Implements `core.evaluation.reading.Reading`.

    Rows hold a text each, from its own beginning; its document has the number 0, padding -1.
    """

    module: str
    """Name of the `thought_stack`."""
    intervention: Intervention
    text_B: npt.NDArray[np.int64]
    """The number of each row's text."""

    def __call__(
        self,
        model: DreamLM,
        tokens_BX: Int[Tensor, "B X"],
        documents_BX: Int[Tensor, "B X"],
        boundaries: bool,
        records: bool,
        view: View = NO_PLACES,
    ) -> list[Signal]:
        carry, size, signals = model.start(len(tokens_BX)), model.config.segment, list[Signal]()
        own, row_B = stack_of(carry, self.module), torch.arange(len(tokens_BX), device=model.device)
        for begin in range(0, tokens_BX.shape[1] - 1, size):
            span = slice(begin, min(begin + size, tokens_BX.shape[1] - 1))
            documents_BS = documents_BX[:, span]
            (signal,) = model.segments(tokens_BX[:, span], documents_BS, carry, boundaries, view.columns(span))
            if span.stop - begin == size:
                written_B = stack_of(signal.carry, self.module).ordered()[:, -1]
                own = own.push(written_B, row_B, (documents_BS >= 0).any(dim=1))
                shown = self.intervention.shown(own, self.text_B, begin // size + 1)
                state: ModuleState = signal.carry.states[self.module]
                signal = signal.with_state(self.module, replace(state, stacks={**state.stacks, STACK: shown}))
            signals.append(signal)
            carry = signal.carry
        return signals


def stack_of(carry: Carry, module: str) -> Ring:
    """The stack of thoughts that a carry shows."""
    state: ModuleState = carry.states[module]
    return state.stacks[STACK]


def donors(owner_N: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """For each text the nearest before it that belongs to another document, or else behind it; -1 where none does.

    owner_N: the document of each text, longest texts first; so nearly every text is lent at least as many thoughts as
    it has, of a text of about its length.
    """
    number_N = np.arange(len(owner_N))
    differs_N = owner_N[1:] != owner_N[:-1]
    before_N = np.maximum.accumulate(np.concatenate([[-1], np.where(differs_N, number_N[:-1], -1)]).astype(np.int64))
    ahead_N = np.concatenate([np.where(differs_N, number_N[1:], len(owner_N)), [len(owner_N)]]).astype(np.int64)
    behind_N = np.minimum.accumulate(ahead_N[::-1])[::-1]
    lent_N = np.where(before_N >= 0, before_N, np.where(behind_N < len(owner_N), behind_N, -1))
    return lent_N[: len(owner_N)]


def _other_order(count: int, generator: np.random.Generator) -> npt.NDArray[np.int64]:
    """An order of `count` things other than their own, where there is one; all of them are equally likely."""
    order = generator.permutation(count)
    while count > 1 and (order == np.arange(count)).all():
        order = generator.permutation(count)
    return order
