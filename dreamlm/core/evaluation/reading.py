"""How held-out text goes through a model before anything is measured on it: as it is, or with something changed.

Shapes: B rows, X = T + 1 tokens of a window.
"""

from collections.abc import Callable
from typing import Protocol, TypeAlias

from jaxtyping import Bool, Int
from torch import Tensor

from dreamlm.core.modules.state import ModuleState
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.nn.signal import Signal
from dreamlm.core.nn.vision.view import NO_PLACES, View

Change: TypeAlias = Callable[[ModuleState, Bool[Tensor, " B"], int], ModuleState]
"""Given a module's state behind a complete segment, which rows have a token in that, and how many segments there were:
the state that the next one is read with."""


class Reading(Protocol):
    """A way to read windows that begin with nothing before them."""

    def __call__(
        self,
        model: DreamLM,
        tokens_BX: Int[Tensor, "B X"],
        documents_BX: Int[Tensor, "B X"],
        boundaries: bool,
        records: bool,
        view: View = NO_PLACES,
    ) -> list[Signal]:
        """The signals of the inputs before the final norm, one for each segment, each with the carry behind it.

        boundaries: False promises that every row is one document without padding.
        records: False promises that nobody asks for the last carry.
        view: what the model sees at places of pictures.
        """
        ...


def read_plainly(
    model: DreamLM,
    tokens_BX: Int[Tensor, "B X"],
    documents_BX: Int[Tensor, "B X"],
    boundaries: bool,
    records: bool,
    view: View = NO_PLACES,
) -> list[Signal]:
    """Every segment after what those before it left behind. Implements `Reading`."""
    carry = model.start(len(tokens_BX), records)
    return [*model.segments(tokens_BX[:, :-1], documents_BX[:, :-1], carry, boundaries, view)]


def read_with(
    change: Change,
    module: str,
    model: DreamLM,
    tokens_BX: Int[Tensor, "B X"],
    documents_BX: Int[Tensor, "B X"],
    boundaries: bool,
    view: View,
) -> list[Signal]:
    """Every segment after what `change` makes of what those before it left behind in a module.

    Rows hold a text each, from its own beginning; its document has the number 0, padding -1.  In a diffusion model the
    slots of a block see the changed state too, since they read the carry before their segment.
    """
    carry, size, signals = model.start(len(tokens_BX)), model.config.segment, list[Signal]()
    for begin in range(0, tokens_BX.shape[1] - 1, size):
        span = slice(begin, min(begin + size, tokens_BX.shape[1] - 1))
        documents_BS = documents_BX[:, span]
        (signal,) = model.segments(tokens_BX[:, span], documents_BS, carry, boundaries, view.columns(span))
        if span.stop - begin == size:
            state = change(signal.carry.states[module], (documents_BS >= 0).any(dim=1), begin // size + 1)
            signal = signal.with_state(module, state)
        signals.append(signal)
        carry = signal.carry
    return signals
