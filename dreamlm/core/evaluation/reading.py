"""How held-out text goes through a model before anything is measured on it: as it is, or with something changed.

Shapes: B rows, X = T + 1 tokens of a window.
"""

from typing import Protocol

from jaxtyping import Int
from torch import Tensor

from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.nn.signal import Signal
from dreamlm.core.nn.vision.view import NO_PLACES, View


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
