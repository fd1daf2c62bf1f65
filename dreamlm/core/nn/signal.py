"""What travels through the stack: a frozen `Signal`, and the `Carry` that goes from one segment to the next.

Nothing here is ever mutated: a layer returns a new signal, a forward returns a new carry.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dreamlm.core.nn.phase import Phase
from dreamlm.core.nn.positions.positions import Placement, Positions
from dreamlm.core.nn.visibility import Visibility, visibility


@dataclass(frozen=True)
class Carry:
    """Everything earlier segments leave behind, per row.

    Document indices never decrease along a row; -1 (padding) belongs to no document and advances nothing.
    """

    tokens: int
    """Columns seen so far, padding included."""
    left_padding: tuple[int, ...]
    """Columns of padding before each row's first token, so that its segments begin there; empty when no row has any."""
    boundaries: bool
    """Whether any row holds padding or more than one document; when False, attention needs no document mask."""
    documents_BP: Int[Tensor, "B P"]
    last_document_B: Int[Tensor, " B"]
    """Document of the last real token; -1 before the first."""
    next_position_B: Int[Tensor, " B"]
    """Position, within its document, of a next token of the same document."""
    states: Mapping[str, Any] = field(default_factory=dict)
    """One state per layer that has one, by the layer's name."""
    records: bool = True
    """False when nothing will follow: then layers' new states are dropped at once instead of held in memory."""

    @property
    def rows(self) -> int:
        return self.last_document_B.shape[0]

    def select(self, rows: Int[Tensor, " R"]) -> "Carry":
        """The carry of some rows, in the order asked for."""
        padding = tuple(self.left_padding[row] for row in rows.tolist()) if self.left_padding else ()
        return replace(
            self,
            left_padding=padding,
            documents_BP=self.documents_BP[rows],
            last_document_B=self.last_document_B[rows],
            next_position_B=self.next_position_B[rows],
            states={name: state.select(rows) for name, state in self.states.items()},
        )


@dataclass(frozen=True)
class Segment:
    """Where the tokens of this segment stand; computed once, read by every layer."""

    documents_BT: Int[Tensor, "B T"]
    position_BT: Int[Tensor, "B T"]
    """Position within the document, from 0; 0 for padding."""
    visible: Visibility | None
    """Which of the past and present tokens a token attends to; None needs no mask: the causal triangle
    without past, or one token that sees its whole past."""
    placement: Placement
    """What marks queries and keys with their position."""
    phase: Phase
    """Where these columns stand in the segments of their rows."""
    followed_B: Bool[Tensor, " B"] | None = None
    """Rows whose text goes on behind these columns, or may in a later call; None is all. What is written in other rows
    nobody will read: padding completed their segment, or follows it."""


@dataclass(frozen=True)
class Output:
    """What one part of a layer gives: its vectors, and the losses and probes that belong to them."""

    hidden: Float[Tensor, "B T D"]
    losses: Mapping[str, Tensor] = field(default_factory=dict)
    probes: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Signal:
    """The value that walks through the stack: `for layer in stack: signal = layer(signal)`."""

    hidden: Float[Tensor, "B T D"]
    segment: Segment
    carry: Carry
    losses: Mapping[str, Tensor] = field(default_factory=dict)
    """Losses that layers add, by name, unweighted, as sums over real tokens."""
    probes: Mapping[str, Tensor] = field(default_factory=dict)
    """Detached values worth looking at, by name."""

    def with_hidden(self, hidden: Float[Tensor, "B T D"]) -> "Signal":
        return replace(self, hidden=hidden)

    def with_losses(self, losses: Mapping[str, Tensor]) -> "Signal":
        """Losses of the same name, from several layers or segments, add up."""
        summed = {name: self.losses[name] + loss if name in self.losses else loss for name, loss in losses.items()}
        return replace(self, losses={**self.losses, **summed}) if losses else self

    def with_probes(self, layer: str, probes: Mapping[str, Tensor]) -> "Signal":
        named = {f"{layer}.{name}": value.detach() for name, value in probes.items()}
        return replace(self, probes={**self.probes, **named}) if probes else self

    def with_state(self, name: str, state: Any) -> "Signal":
        if not self.carry.records:
            return self
        return replace(self, carry=replace(self.carry, states={**self.carry.states, name: state}))


def join(signals: Sequence[Signal]) -> Signal:
    """One signal of several in a row: vectors behind one another, losses summed, probes averaged, the last carry."""
    if len(signals) == 1:
        return signals[0]
    joined = signals[-1]
    for signal in signals[:-1]:
        joined = joined.with_losses(signal.losses)
    names = dict.fromkeys(name for signal in signals for name in signal.probes)
    probes = {
        name: torch.stack([signal.probes[name] for signal in signals if name in signal.probes]).mean(dim=0)
        for name in names
    }
    return replace(joined, hidden=torch.cat([signal.hidden for signal in signals], dim=1), probes=probes)


def advance(
    carry: Carry,
    documents_BT: Int[Tensor, "B T"],
    phase: Phase,
    boundaries: bool,
    positions: Positions,
    dtype: torch.dtype,
    followed_B: Bool[Tensor, " B"] | None = None,
) -> tuple[Segment, Carry]:
    """Place the columns of a phase after the carry: positions, visibility, and the carry without layers' new states.

    `boundaries=False` promises that every row goes on with its one document, without padding. `dtype` is the one
    attention computes in. `followed_B`: as in `Segment`.
    """
    length = documents_BT.shape[1]
    boundaries = boundaries or carry.boundaries
    device = documents_BT.device
    if boundaries:
        position_BT, last_B, next_B = positions_in_documents(carry, documents_BT)
    else:
        position_BT = carry.next_position_B[:, None] + torch.arange(length, device=device)
        last_B, next_B = documents_BT[:, -1], carry.next_position_B + length
    seen_BS = torch.cat([carry.documents_BP, documents_BT], dim=1)
    segment = Segment(
        documents_BT,
        position_BT,
        _visible(carry.tokens, seen_BS, boundaries),
        positions.place(position_BT, dtype),
        phase,
        followed_B,
    )
    placed = replace(
        carry,
        tokens=carry.tokens + length,
        boundaries=boundaries,
        documents_BP=seen_BS,
        last_document_B=last_B,
        next_position_B=next_B,
    )
    return segment, placed


def positions_in_documents(
    carry: Carry, documents_BT: Int[Tensor, "B T"]
) -> tuple[Int[Tensor, "B T"], Int[Tensor, " B"], Int[Tensor, " B"]]:
    """Position in document of every token, the last document, and the next position; counts real tokens only."""
    real_BT = documents_BT >= 0
    latest_BT = torch.maximum(documents_BT.cummax(dim=1).values, carry.last_document_B[:, None])
    previous_BT = torch.cat([carry.last_document_B[:, None], latest_BT[:, :-1]], dim=1)
    starts_BT = real_BT & (documents_BT != previous_BT)
    # Counted so that the carried document's first token would be number 0.
    count_BT = carry.next_position_B[:, None] + real_BT.long().cumsum(dim=1)
    origin_BT = torch.where(starts_BT, count_BT - 1, torch.zeros_like(count_BT)).cummax(dim=1).values
    position_BT = torch.where(real_BT, count_BT - 1 - origin_BT, torch.zeros_like(count_BT))
    return position_BT, latest_BT[:, -1], count_BT[:, -1] - origin_BT[:, -1]


def _visible(past: int, seen_BS: Int[Tensor, "B S"], boundaries: bool) -> Visibility | None:
    if boundaries:
        return visibility(seen_BS, past)
    if past == 0 or seen_BS.shape[1] == past + 1:
        return None
    return visibility(torch.zeros_like(seen_BS[:1]), past)
