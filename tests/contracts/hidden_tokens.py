"""The part of causality that only a diffusion model has: what the slots of a block may see.

A slot sees the text before its block, and what stands in the slots beside it. So a token that is hidden in a block has
no influence on that block, and a token of a later block has none either, by whatever way: attention, a module's memory,
or the clean text that goes through the same layers.

Shapes: B rows, X tokens of a window, N slots of a row.
"""

import torch
from contract_subject import SAME, Subject, other
from torch import Tensor

from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.objectives import diffusion
from dreamlm.core.objectives.blocks import Blocks

CHANGED = {0.5: (1, 9), 1.0: (0, 5, 14)}
"""Columns whose targets are changed, one after the other, by the share of the targets that are hidden."""


def stay_hidden(subject: Subject, model: DreamLM, ids_BX: Tensor, documents_BX: Tensor) -> None:
    """Half of the targets are hidden, then all of them: that leaves the least for a slot to see."""
    for share, columns in CHANGED.items():
        before_BND, blocks, masked_BN = _filled(subject, model, ids_BX, documents_BX, share)
        for column in columns:
            changed_BX = ids_BX.clone()
            changed_BX[:, column + 1] = other(ids_BX[:, column + 1])
            after_BND, _, _ = _filled(subject, model, changed_BX, documents_BX, share)
            sees_BN, later_BN = _seeing(blocks, masked_BN, column)
            still_BN = ~sees_BN & ~later_BN
            told = f"with {share:.0%} of the targets hidden, token {column + 1}"
            assert torch.equal(before_BND[still_BN], after_BND[still_BN]), f"{told} is seen by slots that must not"
            moved_BN = (before_BND - after_BND).abs().amax(dim=2) > SAME
            assert moved_BN[sees_BN].all(), f"{told} is not seen in its own block"


def _filled(
    subject: Subject, model: DreamLM, ids_BX: Tensor, documents_BX: Tensor, share: float
) -> tuple[Tensor, Blocks, Tensor]:
    """The vectors of all slots as the subject's own objective makes them, and which targets were hidden."""
    objective = subject.objective(model, 0.0)
    assert isinstance(objective, diffusion.DiffusionObjective)
    blocks = diffusion.blocks_of(model, ids_BX, documents_BX, objective.filler_id)
    hidden = torch.rand(blocks.unit_BN.shape, generator=torch.Generator().manual_seed(8)) < share
    masked_BN = hidden & (blocks.documents_BN >= 0)
    torch.manual_seed(5)
    with torch.no_grad():
        clean = diffusion.read_clean(model, ids_BX, documents_BX, True, objective.augmentation)
        return diffusion.fill_in(model, blocks, masked_BN, clean).hidden, blocks, masked_BN


def _seeing(blocks: Blocks, masked_BN: Tensor, column: int) -> tuple[Tensor, Tensor]:
    """Which slots must see the target of that column, and which of later blocks may."""
    unit_BN, begin_BN = blocks.unit_BN, blocks.begin_BN
    sees_BN = (unit_BN == unit_BN[:, column, None]) & ~masked_BN[:, column, None]
    # The first token of a document is the last target of the one before, whose block may have begun here too.
    opens_B1 = blocks.given_BN[:, column + 1, None] & (begin_BN[:, column + 1] == begin_BN[:, column])[:, None]
    sees_BN = sees_BN | (unit_BN == unit_BN[:, column + 1, None]) & opens_B1
    return sees_BN & (blocks.documents_BN >= 0), begin_BN > begin_BN[:, column, None]
