"""The state of a module in the carry: its memory, whose it is, and the segment that is not complete yet.

Shapes: B rows, R some of them, T tokens, S tokens of a segment, D width.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dreamlm.core.modules.ring import Ring
from dreamlm.core.modules.row_noise import Noise, NoNoise
from dreamlm.core.nn.phase import Phase

NOBODY = -2
"""Document of a memory that nothing was written to; padding is -1."""


@dataclass(frozen=True)
class ModuleState:
    """A value: every method gives a new one."""

    memory: Mapping[str, Tensor]
    """Each (B, ...)."""
    document_B: Int[Tensor, " B"]
    """The document that wrote each row's memory."""
    written: bool
    """Whether any row's memory was written to."""
    pending_BSD: Float[Tensor, "B S D"]
    """Vectors of the unfinished segment by their place in it; places that it has not reached may hold the segment
    before. No columns as long as segments come whole."""
    pending_documents_BS: Int[Tensor, "B S"]
    """Their documents, -1 where nothing ever was."""
    stacks: Mapping[str, Ring] = field(default_factory=dict)
    """What was written segment by segment, the newest few of each."""
    noise: Noise = field(default_factory=NoNoise)
    """What is added to the stacks when they are read."""

    @classmethod
    def start(
        cls, blank: Mapping[str, Tensor], stacks: Mapping[str, Ring], rows: int, device: torch.device
    ) -> "ModuleState":
        document_B = torch.full((rows,), NOBODY, dtype=torch.int32, device=device)
        nothing = torch.empty(rows, 0, dtype=torch.int32, device=device)
        return cls(blank, document_B, False, torch.empty(rows, 0, 0, device=device), nothing, stacks)

    @property
    def seen(self) -> Mapping[str, Tensor]:
        """As a module sees it: memory; each stack (B, M, ...), newest last, and how many are there, `NAME.count`."""
        return self._with(NoNoise())

    def recalled(self) -> Mapping[str, Tensor]:
        """As a module sees it when it reads: `seen`, with the noise on the stacks."""
        return self._with(self.noise)

    def select(self, rows: Int[Tensor, " R"]) -> "ModuleState":
        memory = {key: value[rows] for key, value in self.memory.items()}
        pending, documents = self.pending_BSD[rows], self.pending_documents_BS[rows]
        stacks = {key: ring.select(rows) for key, ring in self.stacks.items()}
        noise = self.noise.select(rows)
        return ModuleState(memory, self.document_B[rows], self.written, pending, documents, stacks, noise)

    def collect(self, hidden_BTD: Tensor, documents_BT: Tensor, phase: Phase) -> "ModuleState":
        """The vectors laid to those that wait."""
        if phase.whole:
            return replace(self, pending_BSD=hidden_BTD, pending_documents_BS=documents_BT)
        slot_BT = phase.slots(documents_BT.shape[0], documents_BT.device)
        pending_BSD, pending_documents_BS = self._with_room(phase.size, hidden_BTD)
        # A segment is written when every slot was filled anew, so nothing has to be cleared.
        index_BTD = slot_BT[:, :, None].expand_as(hidden_BTD)
        return replace(
            self,
            pending_BSD=pending_BSD.scatter(1, index_BTD, hidden_BTD),
            pending_documents_BS=pending_documents_BS.scatter(1, slot_BT, documents_BT),
        )

    def commit(
        self,
        memory: Mapping[str, Tensor],
        pushed: Mapping[str, Tensor],
        document_R: Tensor,
        row_R: Int[Tensor, " R"],
        everyone: bool,
    ) -> "ModuleState":
        """New memories for some rows, and what comes onto their stacks; where the document is padding, nothing does."""
        keeps_R = document_R >= 0
        before_R = self.document_B[row_R]
        document_R = torch.where(keeps_R, document_R, before_R)
        stacks = {}
        for key, ring in self.stacks.items():
            over_B = torch.zeros_like(self.document_B, dtype=torch.bool).index_copy(0, row_R, document_R != before_R)
            stacks[key] = ring.emptied(over_B).push(pushed[key], row_R, keeps_R)
        if everyone:
            pending, documents = self.pending_BSD[:, :0], self.pending_documents_BS[:, :0]
            return ModuleState(memory, document_R, True, pending, documents, stacks, self.noise)
        return replace(
            self,
            memory={key: value.index_copy(0, row_R, memory[key]) for key, value in self.memory.items()},
            document_B=self.document_B.index_copy(0, row_R, document_R),
            written=True,
            stacks=stacks,
        )

    def _with(self, noise: Noise) -> Mapping[str, Tensor]:
        stacks = {key: noise.on(ring.ordered()) for key, ring in self.stacks.items()}
        return {**self.memory, **stacks, **{f"{key}.count": ring.count_B for key, ring in self.stacks.items()}}

    def _with_room(self, size: int, like_BTD: Tensor) -> tuple[Tensor, Tensor]:
        if self.pending_documents_BS.shape[1] == size:
            return self.pending_BSD, self.pending_documents_BS
        rows, width = like_BTD.shape[0], like_BTD.shape[2]
        documents_BS = torch.full((rows, size), -1, dtype=self.pending_documents_BS.dtype, device=like_BTD.device)
        return like_BTD.new_zeros(rows, size, width), documents_BS
