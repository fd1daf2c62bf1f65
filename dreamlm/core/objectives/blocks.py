"""A window cut into the blocks that a diffusion model fills in, with a slot for each token.

A slot stands for a token of the text and predicts the one behind it. Blocks begin at multiples of the block size; a
document that begins inside a block has the rest of it as its first, shorter one. A document that ends inside a block
goes on with filler to the block's end, in slots of its own (padding slots): a model that writes a block does not know
beforehand how much of it the text will need, so the one that learns must not see it either. Filler is a token of its
own: were it the end token, a block with the one that opens a document would look like one whose document has ended.

Shapes: B rows, X = T + 1 tokens of a window, N slots of a row, U blocks over all rows and documents.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dreamlm.core.nn.noise import NoiseSchedule
from dreamlm.core.nn.slots import Slots


@dataclass(frozen=True)
class Blocks:
    """What stands in the slots of a batch, and what they predict."""

    token_BN: Int[Tensor, "B N"]
    target_BN: Int[Tensor, "B N"]
    documents_BN: Int[Tensor, "B N"]
    """-1 where there is no slot but something to fill the row, or padding."""
    position_BN: Int[Tensor, "B N"]
    column_BN: Int[Tensor, "B N"]
    begin_BN: Int[Tensor, "B N"]
    """Column at which the slot's block begins."""
    given_BN: Bool[Tensor, "B N"]
    """Whether the token is known before the block is written: it ended the block before, or begins a document."""
    before_BN: Int[Tensor, "B N"]
    """The slot that predicts this one's token."""
    unit_BN: Int[Tensor, "B N"]
    """Number of the block, counted over rows and documents; the last number for slots of no document."""
    size_U: Int[Tensor, " U"]
    """Targets of each block."""
    row_U: Int[Tensor, " U"]
    """The row of each block; blocks are numbered row by row."""

    def masked(self, count_U: Int[Tensor, " U"], score_BN: Float[Tensor, "B N"]) -> Bool[Tensor, "B N"]:
        """Which targets are hidden: of each block as many as asked, those with the lowest scores."""
        unit_X = self.unit_BN.flatten()
        by_score_X = score_BN.flatten().argsort()
        order_X = by_score_X[unit_X[by_score_X].argsort(stable=True)]
        nobody = torch.zeros(1, dtype=count_U.dtype, device=count_U.device)
        first_U = torch.cat([nobody, self.size_U.cumsum(0)])
        rank_X = torch.empty_like(order_X)
        rank_X[order_X] = torch.arange(len(order_X), device=order_X.device) - first_U[unit_X[order_X]]
        return (rank_X < torch.cat([count_U, nobody])[unit_X]).view_as(self.unit_BN)

    def importance(
        self, count_U: Int[Tensor, " U"], masked_BN: Bool[Tensor, "B N"], schedule: NoiseSchedule
    ) -> Float[Tensor, "B N"]:
        """What the cross-entropy of each slot weighs; 0 where the target is not hidden."""
        weight_U = torch.cat([schedule.weights(count_U, self.size_U), self.size_U.new_zeros(1).float()])
        return weight_U[self.unit_BN] * masked_BN

    def slots(self, masked_BN: Bool[Tensor, "B N"], mask_id: int) -> Slots:
        """The slots with a mask for each hidden token."""
        hidden_BN = masked_BN.gather(1, self.before_BN) & ~self.given_BN
        tokens_BN = torch.where(hidden_BN, mask_id, self.token_BN)
        return Slots(tokens_BN, self.documents_BN, self.position_BN, self.begin_BN)


def lay_out(
    tokens_BX: Int[Tensor, "B X"],
    documents_BX: Int[Tensor, "B X"],
    position_BT: Int[Tensor, "B T"],
    size: int,
    filler_id: int,
) -> Blocks:
    """The blocks of `size` tokens of a batch of windows.

    position_BT: place of each input in its document.  filler_id: what stands behind a document's end; no text holds it.
    """
    rows, length = position_BT.shape
    device = tokens_BX.device
    # What has only padding behind it is the last thing that its document is asked for, and no slot.
    documents_BT = torch.where(documents_BX[:, 1:] >= 0, documents_BX[:, :-1], -1).long()
    column_BT = torch.arange(length, device=device).expand(rows, -1)
    text = [tokens_BX[:, :-1], tokens_BX[:, 1:], documents_BT, position_BT, column_BT, (column_BT - 1).clamp(min=0)]
    padding = _padding(tokens_BX[:, 1:], documents_BT, position_BT, size, filler_id)
    token_BN, target_BN, documents_BN, position_BN, column_BN, before_BN = (
        torch.cat(parts, dim=1) for parts in zip(text, padding, strict=True)
    )
    begin_BN = column_BN // size * size
    given_BN = (column_BN == begin_BN) | (position_BN == 0)
    unit_BN, size_U, row_U = _units(documents_BN, begin_BN)
    return Blocks(
        token_BN,
        target_BN,
        documents_BN,
        position_BN,
        column_BN,
        begin_BN,
        given_BN,
        before_BN,
        unit_BN,
        size_U,
        row_U,
    )


def _padding(
    target_BT: Int[Tensor, "B T"],
    documents_BT: Int[Tensor, "B T"],
    position_BT: Int[Tensor, "B T"],
    size: int,
    filler_id: int,
) -> list[Int[Tensor, "B G"]]:
    """Slots from each document's end to its block's: token, target, document, position, column, slot before."""
    rows, length = documents_BT.shape
    device = documents_BT.device
    next_BT = torch.cat([documents_BT[:, 1:], documents_BT.new_full((rows, 1), -2)], dim=1)
    left_T = size - 1 - torch.arange(length, device=device) % size
    ends_BT = (documents_BT >= 0) & (next_BT != documents_BT) & (left_T > 0)
    row_E, column_E = ends_BT.nonzero(as_tuple=True)
    step_F = torch.arange(1, size, device=device)
    event_G, step_G = (step_F <= left_T[column_E][:, None]).nonzero(as_tuple=True)
    row_G, end_G, step_G = row_E[event_G], column_E[event_G], step_F[step_G]
    count_B = torch.bincount(row_G, minlength=rows)
    first_B = count_B.cumsum(0) - count_B
    place_G = torch.arange(len(row_G), device=device) - first_B[row_G]
    most = int(count_B.max()) if len(row_G) else 0

    def filled(value_G: Tensor, nothing: int) -> Tensor:
        table_BG = torch.full((rows, most), nothing, device=device)
        table_BG[row_G, place_G] = value_G
        return table_BG

    before_G = torch.where(step_G == 1, end_G, length + place_G - 1)
    # The first of them stands for the token that ends the document.
    token_G = torch.where(step_G == 1, target_BT[row_G, end_G], filler_id)
    return [
        filled(token_G, filler_id),
        torch.full((rows, most), filler_id, device=device),
        filled(documents_BT[row_G, end_G], -1),
        filled(position_BT[row_G, end_G] + step_G, 0),
        filled(end_G + step_G, 0),
        filled(before_G, 0),
    ]


def _units(
    documents_BN: Int[Tensor, "B N"], begin_BN: Int[Tensor, "B N"]
) -> tuple[Int[Tensor, "B N"], Int[Tensor, " U"], Int[Tensor, " U"]]:
    """The number of each slot's block, and of each block the slots and the row."""
    rows = torch.arange(len(documents_BN), device=documents_BN.device)[:, None].expand_as(documents_BN)
    own_BN = documents_BN >= 0
    names_X = torch.stack([rows[own_BN], begin_BN[own_BN], documents_BN[own_BN]], dim=1)
    unique_U, unit_X, size_U = torch.unique(names_X, dim=0, return_inverse=True, return_counts=True)
    unit_BN = torch.full_like(documents_BN, len(unique_U))
    unit_BN[own_BN] = unit_X
    return unit_BN, size_U, unique_U[:, 0]
