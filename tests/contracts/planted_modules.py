"""A small sound module, and defective twins of it that each break a contract.

Shapes: B rows, R rows that write, T tokens, S tokens of a segment, D width.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import torch
from contract_cases import SEGMENT, SIZES
from contract_subject import Subject
from torch import Tensor, nn
from torch.nn import functional as F

from dreamlm.core.modules.module import CognitiveModule, ModuleConfig, Room, Written
from dreamlm.core.modules.state import ModuleState
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.nn.signal import Signal
from dreamlm.core.objectives.augmentation import Augmentation, Inputs, shuffled
from dreamlm.core.objectives.causal import CausalObjective
from dreamlm.core.objectives.objective import Losses

Kind = type[CognitiveModule]


class Planted(ModuleConfig):
    type: Literal["planted"] = "planted"
    kind: Kind

    def build(self, name: str, room: Room) -> CognitiveModule:
        return self.kind(name, room)


class OpenConfig(DreamLM.Config):
    """A decoder's configuration that takes modules from outside of the registry."""

    modules: tuple[Planted, ...] = ()


def subject(kind: Kind) -> Subject:
    plain = OpenConfig.model_validate({**SIZES, "segment_length": SEGMENT})
    return Subject(plain.model_copy(update={"modules": (Planted(kind=kind),)}), plain)


class Sound(CognitiveModule):
    """Notes the mean of each segment; later tokens are multiplied with the fading sum of the notes."""

    def __init__(self, name: str, room: Room) -> None:
        super().__init__(name)
        self.size = room.hidden_size
        self.value = nn.Linear(self.size, self.size, bias=False)
        self.residual = nn.Linear(self.size, self.size, bias=False)

    def blank(self, rows: int, device: torch.device) -> Mapping[str, Tensor]:
        return {"note": torch.zeros(rows, self.size, device=device)}

    def read(self, hidden_BTD: Tensor, memory: Mapping[str, Tensor]) -> Tensor:
        return self.residual(hidden_BTD * memory["note"][:, None])

    def write(self, memory: Mapping[str, Tensor], hidden_RSD: Tensor, own_RS: Tensor) -> Written:
        return Written({"note": 0.5 * memory["note"] + self.mean(self.value(hidden_RSD), own_RS)})

    def mean(self, value_RSD: Tensor, own_RS: Tensor) -> Tensor:
        return (value_RSD * own_RS[:, :, None]).sum(dim=1) / own_RS.sum(dim=1, keepdim=True).clamp(min=1)


class PeeksAtTheNextToken(Sound):
    def read(self, hidden_BTD: Tensor, memory: Mapping[str, Tensor]) -> Tensor:
        return super().read(hidden_BTD, memory) + self.residual(hidden_BTD.roll(-1, dims=1))


class PoolsTheFuture(Sound):
    def read(self, hidden_BTD: Tensor, memory: Mapping[str, Tensor]) -> Tensor:
        return super().read(hidden_BTD.mean(dim=1, keepdim=True).expand_as(hidden_BTD), memory)


class PeeksWhereNothingFollows(Sound):
    """Only on the objective's path, where the carry is told to keep no states."""

    def forward(self, signal: Signal) -> Signal:
        out = super().forward(signal)
        following = F.pad(signal.hidden[:, 1:], (0, 0, 0, 1))
        return out if signal.carry.records else out.with_hidden(out.hidden + self.residual(following))


class LearnsNothing(Sound):
    def write(self, memory: Mapping[str, Tensor], hidden_RSD: Tensor, own_RS: Tensor) -> Written:
        written = super().write(memory, hidden_RSD, own_RS)
        return Written({"note": written.memory["note"].detach()})


class CallsALearnerFrozen(Sound):
    frozen = frozenset({"value.weight"})


class CallsItsMemoryShown(Sound):
    shown = frozenset({"note"})


class DoesNothing(Sound):
    def read(self, hidden_BTD: Tensor, memory: Mapping[str, Tensor]) -> Tensor:
        return 0 * super().read(hidden_BTD, memory)


class IgnoresItsMemory(Sound):
    def read(self, hidden_BTD: Tensor, memory: Mapping[str, Tensor]) -> Tensor:
        return self.residual(hidden_BTD)


class ActsBeforeItKnows(Sound):
    def forward(self, signal: Signal) -> Signal:
        return super().forward(signal.with_hidden(signal.hidden + self.residual(signal.hidden)))


class ForgetsBetweenCalls(Sound):
    """Reads the token before, as far as it came in the same call."""

    def forward(self, signal: Signal) -> Signal:
        documents_BT = signal.segment.documents_BT
        same_BT = (documents_BT[:, 1:] == documents_BT[:, :-1]) & (documents_BT[:, 1:] >= 0)
        before_BTD = F.pad(signal.hidden[:, :-1] * same_BT[:, :, None], (0, 0, 1, 0))
        return super().forward(signal.with_hidden(signal.hidden + self.residual(before_BTD)))


class MixesRows(Sound):
    def read(self, hidden_BTD: Tensor, memory: Mapping[str, Tensor]) -> Tensor:
        return super().read(hidden_BTD, {"note": memory["note"].mean(dim=0, keepdim=True)})


class NotesWhatIsNotItsOwn(Sound):
    """Padding, and the tokens of a document that ends in the segment."""

    def mean(self, value_RSD: Tensor, own_RS: Tensor) -> Tensor:
        return value_RSD.mean(dim=1)


class IgnoresDocuments(Sound):
    def forward(self, signal: Signal) -> Signal:
        one_document = torch.zeros_like(signal.segment.documents_BT)
        seen = replace(signal, segment=replace(signal.segment, documents_BT=one_document))
        return replace(super().forward(seen), segment=signal.segment)


class ForgetsABuffer(Sound):
    """Its direction is drawn when it is built, and belongs to no parameter."""

    def __init__(self, name: str, room: Room) -> None:
        super().__init__(name, room)
        self.register_buffer("direction", torch.randn(self.size), persistent=False)

    def read(self, hidden_BTD: Tensor, memory: Mapping[str, Tensor]) -> Tensor:
        return super().read(hidden_BTD * self.direction, memory)


class KeepsItsStateToItself(Sound):
    """Its note is an attribute; the one in the carry is for show."""

    def start(self, rows: int, device: torch.device) -> ModuleState:
        self.note = torch.zeros(1, self.size)
        return super().start(rows, device)

    def read(self, hidden_BTD: Tensor, memory: Mapping[str, Tensor]) -> Tensor:
        return super().read(hidden_BTD, {"note": self.note})

    def write(self, memory: Mapping[str, Tensor], hidden_RSD: Tensor, own_RS: Tensor) -> Written:
        self.note = super().write(memory, hidden_RSD, own_RS).memory["note"].mean(dim=0, keepdim=True)
        return Written({"note": torch.zeros_like(memory["note"])})


class DrawsWithoutASeed(Sound):
    def read(self, hidden_BTD: Tensor, memory: Mapping[str, Tensor]) -> Tensor:
        generator = torch.Generator()
        generator.seed()
        return super().read(hidden_BTD * torch.rand(self.size, generator=generator), memory)


class DrawsFromItsOwnStream(Sound):
    """Seeded when it is built; but what it draws depends on how often it was asked."""

    def __init__(self, name: str, room: Room) -> None:
        super().__init__(name, room)
        self.generator = torch.Generator().manual_seed(0)

    def read(self, hidden_BTD: Tensor, memory: Mapping[str, Tensor]) -> Tensor:
        return super().read(hidden_BTD * torch.rand(self.size, generator=self.generator), memory)


class DividesByOneTokenLess(Sound):
    """By the deviation of a segment's tokens, which one token does not have."""

    def mean(self, value_RSD: Tensor, own_RS: Tensor) -> Tensor:
        mean_RD = super().mean(value_RSD, own_RS)
        squares_RD = (value_RSD - mean_RD[:, None]).square().sum(dim=1)
        return mean_RD / (squares_RD / (own_RS.sum(dim=1, keepdim=True) - 1)).sqrt()


class WritesTwice(Sound):
    """Into a buffer, whenever it runs: under recomputation once more."""

    def __init__(self, name: str, room: Room) -> None:
        super().__init__(name, room)
        self.register_buffer("writes", torch.zeros(()))

    def write(self, memory: Mapping[str, Tensor], hidden_RSD: Tensor, own_RS: Tensor) -> Written:
        self.writes = self.writes + 1
        return super().write(memory, hidden_RSD, own_RS)


class AsksForWhatItHasShown(CausalObjective):
    """Shuffles its inputs within windows, and lets tokens that moved ahead be copied."""

    def __init__(self, model: DreamLM, label_smoothing: float) -> None:
        super().__init__(model, label_smoothing, ShufflesOnly())


class ShufflesOnly(Augmentation):
    def inputs(self, model: DreamLM, tokens_BT: Tensor, documents_BT: Tensor) -> Inputs:
        place_BT = shuffled(documents_BT, documents_BT >= 0, window=5, block=None)
        return Inputs(torch.empty_like(tokens_BT).scatter(1, place_BT, tokens_BT))


class ForgetsTheShift(CausalObjective):
    """Shows the model the tokens that it is to predict."""

    def forward(self, tokens_BX: Tensor, documents_BX: Tensor, boundaries: bool) -> Losses:
        answers_BT, documents_BT = tokens_BX[:, 1:], documents_BX[:, 1:]
        signal = self.model(answers_BT, documents_BT, self.model.start(len(answers_BT), records=False), boundaries)
        loss, nll = self.model.head(signal.hidden.flatten(0, 1), answers_BT.flatten(), self.label_smoothing)
        return Losses({"token": loss, **signal.losses}, nll, (documents_BT >= 0).sum())
