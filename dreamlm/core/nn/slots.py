"""The places of a denoising pass: tokens of a block, some of them masked, that see one another and the clean past.

Shapes: B rows, N slots of a row, P clean tokens read before.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from dreamlm.core.nn.visibility import Visibility, Whole


@dataclass(frozen=True)
class Slots:
    """Slots beside a clean text whose states lie in a carry; what a slot holds is never written anywhere."""

    tokens_BN: Int[Tensor, "B N"]
    """Token ids; the model's `mask_id` where the token is hidden."""
    documents_BN: Int[Tensor, "B N"]
    """Document of each slot; -1 belongs to none and is there to fill up the row."""
    position_BN: Int[Tensor, "B N"]
    """Place within the document."""
    begin_BN: Int[Tensor, "B N"]
    """Column of the clean text at which the slot's block begins: it sees what lies before, and its own block."""

    def visible(self, seen_BP: Int[Tensor, "B P"]) -> Visibility:
        """Which clean tokens, by their documents, and then which slots each slot attends to."""
        column_P = torch.arange(seen_BP.shape[1], device=seen_BP.device)
        documents_BN1, begin_BN1 = self.documents_BN[:, :, None], self.begin_BN[:, :, None]
        clean_BNP = (seen_BP[:, None] == documents_BN1) & (column_P < begin_BN1) & (documents_BN1 >= 0)
        block_BNN = (documents_BN1 == self.documents_BN[:, None]) & (begin_BN1 == self.begin_BN[:, None])
        return Whole(torch.cat([clean_BNP, block_BNN], dim=2)[:, None])
