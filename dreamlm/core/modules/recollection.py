"""Reading the memories of several moments at once.

Shapes: B rows, N slots, M moments, W most slots of a moment, D width.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dreamlm.core.modules.state import ModuleState

Read = Callable[[Tensor, Mapping[str, Tensor]], Tensor]


@dataclass(frozen=True)
class Recollection:
    """The states of a module at several moments, and which of them each slot reads."""

    states: Sequence[ModuleState]
    moment_BN: Int[Tensor, "B N"]

    def read(
        self,
        read: Read,
        hidden_BND: Float[Tensor, "B N D"],
        documents_BN: Int[Tensor, "B N"],
        shown: frozenset[str] = frozenset(),
    ) -> Float[Tensor, "B N D"]:
        """What the module's `read` adds to the slots: zero where the memory is another document's, or blank.

        shown: what of the memory the module does not read.
        """
        if not any(state.written for state in self.states):
            return torch.zeros_like(hidden_BND)
        document_BM = torch.stack([state.document_B for state in self.states], dim=1)
        reads_BN = (documents_BN == document_BM.gather(1, self.moment_BN)) & (documents_BN >= 0)
        if len(self.states) == 1:
            added_BND = read(hidden_BND, self.states[0].recalled())
        else:
            added_BND = self._read_each(read, hidden_BND, shown)
        return torch.where(reads_BN[:, :, None], added_BND, 0)

    def _read_each(
        self, read: Read, hidden_BND: Float[Tensor, "B N D"], shown: frozenset[str]
    ) -> Float[Tensor, "B N D"]:
        """One call for all moments, whose slots are laid behind one another as if each moment were a row."""
        rows, _, width = hidden_BND.shape
        moments = len(self.states)
        earlier_BNM = torch.nn.functional.one_hot(self.moment_BN, moments).cumsum(dim=1)
        rank_BN = earlier_BNM.gather(2, self.moment_BN[:, :, None])[:, :, 0] - 1
        most = int(rank_BN.max()) + 1
        place_BND = (self.moment_BN * most + rank_BN)[:, :, None].expand_as(hidden_BND)
        laid_BXD = hidden_BND.new_zeros(rows, moments * most, width).scatter(1, place_BND, hidden_BND)
        seen = [state.recalled() for state in self.states]
        memory = {key: torch.stack([one[key] for one in seen], dim=1).flatten(0, 1) for key in seen[0].keys() - shown}
        added = read(laid_BXD.view(rows * moments, most, width), memory)
        return added.reshape(rows, moments * most, width).gather(1, place_BND)
