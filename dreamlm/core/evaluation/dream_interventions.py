"""What segments are shown instead of what their own text dreamt, and reading a text that way.

    1. a segment is read as ever: its tokens read the nodes that the carry shows, and the segment is dreamt of
    2. the carry shows the next segment's tokens what the intervention puts in the nodes' place

Only what tokens read is replaced. A node that they read is what its step says and what it remembers, so nothing of
either is left; but the node memory that messages go on with is the text's own. And as a module dreams of the vectors
that come to it, before anything is added to them, a text dreams the same whatever its tokens are shown.

Shapes: B rows, X = T + 1 tokens of a window, U texts; K complete segments of a text, G nodes, C width of a dream.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, final

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dreamlm.core.evaluation.dream_reading import READ, TextDreams
from dreamlm.core.evaluation.reading import read_with
from dreamlm.core.modules.state import ModuleState
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.nn.signal import Signal
from dreamlm.core.nn.vision.view import NO_PLACES, View


class Intervention(ABC):
    """A choice of what is shown; it depends on a text and its number, never on the rows beside it."""

    name: ClassVar[str]

    @abstractmethod
    def shown(
        self, own_BGC: Float[Tensor, "B G C"], text_B: npt.NDArray[np.int64], segments: int
    ) -> Float[Tensor, "B G C"]:
        """The nodes for the segment after so many, of rows that hold the texts of these numbers."""


@final
@dataclass(frozen=True)
class OwnDreams(Intervention):
    """What the text itself dreamt."""

    name = "own"

    def shown(self, own_BGC: Tensor, text_B: npt.NDArray[np.int64], segments: int) -> Tensor:
        return own_BGC


@final
@dataclass(frozen=True)
class Zeroed(Intervention):
    """Nodes that are all zero."""

    name = "zeroed"

    def shown(self, own_BGC: Tensor, text_B: npt.NDArray[np.int64], segments: int) -> Tensor:
        return torch.zeros_like(own_BGC)


@final
@dataclass(frozen=True)
class MeanDreams(Intervention):
    """The mean of what all texts dreamt after as many segments: what dreams say where they say nothing of a text."""

    name = "mean"
    mean_KGC: Sequence[npt.NDArray[np.float32]]

    def shown(self, own_BGC: Tensor, text_B: npt.NDArray[np.int64], segments: int) -> Tensor:
        return torch.from_numpy(self.mean_KGC[segments - 1]).to(own_BGC).expand_as(own_BGC)


@final
@dataclass(frozen=True)
class Anothers(Intervention):
    """What the text of another document dreamt after as many segments; of a shorter one, what it dreamt last.

    Zero where that one is shorter than a segment.
    """

    name = "another's"
    texts: Sequence[TextDreams]
    donor_U: npt.NDArray[np.int64]
    """Whose dreams each text is lent."""

    def shown(self, own_BGC: Tensor, text_B: npt.NDArray[np.int64], segments: int) -> Tensor:
        return _laid([self.texts[self.donor_U[text]].read_KGC for text in text_B], segments, own_BGC)


@final
@dataclass(frozen=True)
class Reversed(Intervention):
    """What the text would have dreamt if the vectors of its last segment had come in reversed order."""

    name = "reversed"
    texts: Sequence[TextDreams]

    def shown(self, own_BGC: Tensor, text_B: npt.NDArray[np.int64], segments: int) -> Tensor:
        return _laid([self.texts[text].reversed_KGC for text in text_B], segments, own_BGC)


@final
@dataclass(frozen=True)
class Intervened:
    """Reading with an intervention between segments. Implements `core.evaluation.reading.Reading`."""

    module: str
    """Name of the `dreaming` module."""
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
        def change(state: ModuleState, real_B: Bool[Tensor, " B"], segments: int) -> ModuleState:
            shown_BGC = self.intervention.shown(state.memory[READ], self.text_B, segments)
            return replace(state, memory={**state.memory, READ: shown_BGC})

        return read_with(change, self.module, model, tokens_BX, documents_BX, boundaries, view)


def _laid(
    texts: Sequence[npt.NDArray[np.float32]], segments: int, like_BGC: Float[Tensor, "B G C"]
) -> Float[Tensor, "B G C"]:
    """A row of each text: what it has after so many segments, or after its last one, or else zeros."""
    shown_BGC = torch.zeros_like(like_BGC)
    for row, nodes_KGC in enumerate(texts):
        for last_GC in nodes_KGC[:segments][-1:]:
            shown_BGC[row] = torch.from_numpy(last_GC).to(like_BGC)
    return shown_BGC
