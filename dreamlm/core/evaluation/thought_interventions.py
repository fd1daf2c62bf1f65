"""What segments are shown instead of their own stack of thoughts, and reading a text that way.

    1. a segment is read as ever: its tokens attend to the stack that the carry shows, and a thought is written
    2. the thought goes onto the text's own stack, which nothing ever changes
    3. the carry shows the next segment what the intervention makes of that stack

Both readers see the shown stack: the tokens, and the queries that write the next thought.

Shapes: B rows, X = T + 1 tokens of a window, M thoughts of a stack, N texts.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, final

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from dreamlm.core.evaluation.reading import read_with
from dreamlm.core.evaluation.trajectory import Trajectory
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
    """Reading with an intervention between segments. Implements `core.evaluation.reading.Reading`."""

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
        own = stack_of(model.start(len(tokens_BX)), self.module)
        row_B = torch.arange(len(tokens_BX), device=model.device)

        def change(state: ModuleState, real_B: Bool[Tensor, " B"], segments: int) -> ModuleState:
            nonlocal own
            own = own.push(state.stacks[STACK].ordered()[:, -1], row_B, real_B)
            shown = self.intervention.shown(own, self.text_B, segments)
            return replace(state, stacks={**state.stacks, STACK: shown})

        return read_with(change, self.module, model, tokens_BX, documents_BX, boundaries, view)


def stack_of(carry: Carry, module: str) -> Ring:
    """The stack of thoughts that a carry shows."""
    state: ModuleState = carry.states[module]
    return state.stacks[STACK]


def _other_order(count: int, generator: np.random.Generator) -> npt.NDArray[np.int64]:
    """An order of `count` things other than their own, where there is one; all of them are equally likely."""
    order = generator.permutation(count)
    while count > 1 and (order == np.arange(count)).all():
        order = generator.permutation(count)
    return order
