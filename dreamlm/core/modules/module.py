"""What every cognitive module obeys, and all that it need not care about.

A module sits behind a layer of the decoder. For every segment it

    1. reads: the memory that earlier segments left behind is added to this segment's tokens
    2. collects: this segment's vectors wait in the carry until the segment is complete
    3. writes: the complete segment becomes a new memory

Three rules are kept here, once for all modules: a token of another document reads nothing; a segment that begins a
document inside it writes with that document's tokens alone, upon a blank memory; rows write when their own segment is
complete, whatever the rows beside them do.

Shapes: B rows, R rows that write, T tokens, S tokens of a segment, D width.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, final

import torch
from jaxtyping import Bool, Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from dreamlm.core.config import ConfigModel
from dreamlm.core.modules.recollection import Recollection
from dreamlm.core.modules.ring import Ring
from dreamlm.core.modules.stage import Stage
from dreamlm.core.modules.state import ModuleState
from dreamlm.core.nn.signal import Signal


@dataclass(frozen=True)
class Room:
    """What a decoder offers its modules."""

    hidden_size: int
    num_heads: int
    segment_length: int
    norm_epsilon: float


class ModuleConfig(ConfigModel, ABC):
    """Parent of every module's `Config`, which adds `type` and `build(room) -> CognitiveModule`."""

    after: int | None = None
    """Index of the layer it sits behind; default the middle one."""

    loss_start: float = Field(0.0, ge=0.0, lt=1.0)
    """Share of the run's planned steps after which the module's own losses begin to count."""
    loss_ramp: float = Field(0.0, ge=0.0, le=1.0)
    """Share of the planned steps over which they grow to their full weight; 0 is at once."""

    has_stages: ClassVar[bool] = False
    """Whether a stage of a curriculum changes anything of the module: whether it has an `enter` of its own."""

    @model_validator(mode="after")
    def _reaches_full_weight(self) -> "ModuleConfig":
        if self.loss_start + self.loss_ramp > 1.0:
            raise ValueError(
                f"loss_start {self.loss_start} and loss_ramp {self.loss_ramp} must make at most 1 together: "
                "the losses would never have their full weight"
            )
        return self

    @property
    def loss_weights(self) -> Mapping[str, float]:
        """Full weight of each loss of the module, by the name of `Written.losses`."""
        return {}

    def check(self, hidden_size: int) -> None:
        """Raises: ValueError when the module does not fit a decoder of that width."""

    def objections(self, stage: Stage) -> list[tuple[str, str]]:
        """(setting, what is wrong with it) where a stage asks for what the module was not made for."""
        return []

    def loss_factor(self, progress: float) -> float:
        """What the weights are multiplied with when that share of the planned steps is done, 0 to 1."""
        if self.loss_ramp == 0.0:
            return float(progress >= self.loss_start)
        return min(1.0, max(0.0, (progress - self.loss_start) / self.loss_ramp))


@dataclass(frozen=True)
class Stack:
    """The newest few tensors that a module wrote: how many, and the shape of one."""

    size: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Written:
    """What a module makes of a segment."""

    memory: Mapping[str, Tensor] = field(default_factory=dict)
    """Each (R, ...), like `blank`."""
    losses: Mapping[str, Float[Tensor, " R"]] = field(default_factory=dict)
    """Mean per token of each row, unweighted, by name."""
    probes: Mapping[str, Tensor] = field(default_factory=dict)
    """Values worth looking at, of any shape."""
    pushed: Mapping[str, Tensor] = field(default_factory=dict)
    """What comes onto each stack (R, ...)."""


class CognitiveModule(nn.Module, ABC):
    """Conditions a segment on what earlier segments of the same document left behind."""

    frozen: ClassVar[frozenset[str]] = frozenset()
    """Names of parameters that no objective reaches, on purpose."""

    shown: ClassVar[frozenset[str]] = frozenset()
    """What of the memory nobody reads: it is there to be looked at."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        """Of its state, losses and probes."""

    @abstractmethod
    def blank(self, rows: int, device: torch.device) -> Mapping[str, Tensor]:
        """The memory before anything was written, each tensor (rows, ...)."""

    def stacks(self) -> Mapping[str, Stack]:
        """What is kept of several segments.

        `read` and `write` find the stack under its name, (B, M, ...) with the newest last, and under `NAME.count` how
        many of the last ones are there.
        """
        return {}

    def enter(self, stage: Stage) -> None:
        """Go on as a stage of a curriculum asks; most modules have nothing that a stage changes."""

    @abstractmethod
    def read(self, hidden_BTD: Float[Tensor, "B T D"], memory: Mapping[str, Tensor]) -> Float[Tensor, "B T D"]:
        """What is added to the tokens."""

    @abstractmethod
    def write(
        self, memory: Mapping[str, Tensor], hidden_RSD: Float[Tensor, "R S D"], own_RS: Bool[Tensor, "R S"]
    ) -> Written:
        """The memory after a segment. `own_RS`: the tokens of its last document; the others must have no influence."""

    @final
    def start(self, rows: int, device: torch.device) -> ModuleState:
        """The state before the first token."""
        rings = {key: Ring.empty(rows, one.size, one.shape, device) for key, one in self.stacks().items()}
        return ModuleState.start(self.blank(rows, device), rings, rows, device)

    @final  # type: ignore[misc]  # torch declares forward as an attribute
    def forward(self, signal: Signal) -> Signal:
        """The signal with the memory read and, when a segment is complete and another may follow, written."""
        state: ModuleState | Recollection = signal.carry.states[self.name]
        if isinstance(state, Recollection):
            added_BTD = state.read(self._read, signal.hidden, signal.segment.documents_BT, self.shown)
            return signal.with_hidden(signal.hidden + added_BTD)
        phase, documents_BT = signal.segment.phase, signal.segment.documents_BT
        incoming_BTD = signal.hidden
        if state.written:
            reads_BT = (documents_BT == state.document_B[:, None]) & (documents_BT >= 0)
            added_BTD = self._read(incoming_BTD, state.recalled())
            signal = signal.with_hidden(incoming_BTD + torch.where(reads_BT[:, :, None], added_BTD, 0))
        if not signal.carry.records:
            return signal
        state = state.collect(incoming_BTD, documents_BT, phase)
        rows = phase.completed(len(documents_BT))
        if rows:
            signal, state = self._commit(signal, state, rows)
        return signal.with_state(self.name, state)

    def _read(self, hidden_BTD: Float[Tensor, "B T D"], memory: Mapping[str, Tensor]) -> Float[Tensor, "B T D"]:
        return self.read(hidden_BTD, _computed_as(hidden_BTD, memory))

    def _commit(self, signal: Signal, state: ModuleState, rows: list[int]) -> tuple[Signal, ModuleState]:
        everyone = len(rows) == len(state.document_B)
        row_R = torch.tensor(rows, device=state.document_B.device)
        part = state if everyone else state.select(row_R)
        last_R = part.pending_documents_BS.amax(dim=1)
        own_RS = (part.pending_documents_BS == last_R[:, None]) & (last_R >= 0)[:, None]
        blank = self.blank(len(rows), row_R.device)
        same_R = part.document_B == last_R
        counts = {f"{key}.count": torch.where(same_R, ring.count_B, 0) for key, ring in part.stacks.items()}
        before = {**part.seen, **_choose(same_R, part.memory, blank), **counts}
        written = self.write(_computed_as(part.pending_BSD, before), part.pending_BSD, own_RS)
        # A module may compute in less than the memory keeps.
        kept = {key: value.to(blank[key].dtype) for key, value in written.memory.items()}
        memory = _choose(last_R >= 0, kept, part.memory)
        counts_R = own_RS.sum(dim=1)
        if signal.segment.followed_B is not None:
            counts_R = counts_R * signal.segment.followed_B[row_R]
        losses = {f"{self.name}.{key}": (loss_R * counts_R).sum() for key, loss_R in written.losses.items()}
        signal = signal.with_losses(losses).with_probes(self.name, written.probes)
        return signal, state.commit(memory, written.pushed, last_R, row_R, everyone)


def _computed_as(hidden: Tensor, memory: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The memory, which is kept in fp32, in the precision of the hidden vectors; autocast sees to that by itself."""
    if torch.is_autocast_enabled(hidden.device.type):
        return memory
    return {key: value.to(hidden.dtype) if value.is_floating_point() else value for key, value in memory.items()}


def _choose(
    which_R: Bool[Tensor, " R"], first: Mapping[str, Tensor], second: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Row by row the first memory or the second."""
    return {
        key: torch.where(which_R.view(-1, *[1] * (value.ndim - 1)), value, second[key]) for key, value in first.items()
    }
