"""What a new thought is held to, beside what it is worth to later text.

Shapes: R rows that write, M thoughts of a stack, X numbers of a thought, H rows of it, C numbers of each.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F


def thought_losses(
    thought_RHC: Float[Tensor, "R H C"],
    expected_RHC: Float[Tensor, "R H C"],
    stack_RMX: Float[Tensor, "R M X"],
    there_RM: Bool[Tensor, "R M"],
    writes_R: Bool[Tensor, " R"],
    temperature: float,
) -> Mapping[str, Float[Tensor, " R"]]:
    """Losses of each row that writes, by name; 0 for what a row has no thoughts to compare with.

    consistency   1 - cosine of the new thought and the one before, 0 to 2
    diversity     mean cosine of all pairs of different thoughts, the new one among them, -1 to 1
    sparsity      mean absolute number, 0 to 1
    contrastive   cross-entropy of finding, among the last thoughts of all rows, that of the same row
    next_thought  1 - cosine of the new thought, as a target, and what was expected from the one before, 0 to 2

    stack_RMX: thoughts before the new one, the newest last; there_RM: which of them are the document's. Rows count as
    different documents, also where a long one fills several rows of a micro-batch, as `train.lengths` makes it do.
    Source: contrastive: van den Oord et al. 2018 (InfoNCE).
    """
    new_RX = F.normalize(thought_RHC.flatten(1).float(), dim=1)
    past_RMX = F.normalize(stack_RMX.float(), dim=2)
    last_RX, has_last_R = past_RMX[:, -1], there_RM[:, -1]
    near_R = (new_RX * last_RX).sum(dim=1)
    hope_R = (new_RX.detach() * F.normalize(expected_RHC.flatten(1).float(), dim=1)).sum(dim=1)
    losses = {
        "consistency": (1 - near_R) * has_last_R,
        "diversity": _mean_cosine(new_RX, past_RMX, there_RM),
        "sparsity": thought_RHC.float().abs().mean(dim=(1, 2)),
        "contrastive": _contrast(new_RX, last_RX, has_last_R & writes_R, temperature),
        "next_thought": (1 - hope_R) * has_last_R,
    }
    return {name: torch.where(writes_R, loss_R, 0) for name, loss_R in losses.items()}


def _mean_cosine(
    new_RX: Float[Tensor, "R X"], past_RMX: Float[Tensor, "R M X"], there_RM: Bool[Tensor, "R M"]
) -> Float[Tensor, " R"]:
    all_RNX = torch.cat([past_RMX * there_RM[:, :, None], new_RX[:, None]], dim=1)
    count_R = there_RM.sum(dim=1) + 1
    # The sum over pairs, those of a thought with itself taken off.
    pairs_R = all_RNX.sum(dim=1).square().sum(dim=1) - all_RNX.square().sum(dim=(1, 2))
    return pairs_R / (count_R * (count_R - 1)).clamp(min=1)


def _contrast(
    new_RX: Float[Tensor, "R X"], last_RX: Float[Tensor, "R X"], takes_part_R: Bool[Tensor, " R"], temperature: float
) -> Float[Tensor, " R"]:
    similarity_RR = new_RX @ last_RX.T / temperature
    similarity_RR = similarity_RR.masked_fill(~takes_part_R[None], -torch.inf)
    # A row without a part would have nothing to choose from.
    similarity_RR = similarity_RR.masked_fill(~takes_part_R[:, None], 0.0)
    itself_R = torch.arange(len(new_RX), device=new_RX.device)
    return torch.where(takes_part_R, F.cross_entropy(similarity_RR, itself_R, reduction="none"), 0)
