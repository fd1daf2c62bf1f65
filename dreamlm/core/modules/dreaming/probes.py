"""What dreams are like, in a few numbers."""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from dreamlm.core.modules.dreaming.edges import edge_type_names
from dreamlm.core.modules.dreaming.generator import Dreams
from dreamlm.core.modules.dreaming.reasoner import Reasoned


@torch.no_grad()
def probes(dreams: Dreams, reasoned: Reasoned, real_R: Bool[Tensor, " R"]) -> Mapping[str, Tensor]:
    """Over the rows that are real, 0 without any:

    usage           each expert's share of the choices
    usage_entropy   entropy of these shares in nats; ln E when all are used alike
    distance        mean over pairs of dreams of a row of 1 - cosine, 0 to 2; 0 where there is one dream
    edges.NAME      mean share of a type of edges
    """
    usage_E = dreams.routing.usage_E
    share_RXY = reasoned.share_RXY
    share_Y = (share_RXY * real_R[:, None, None]).sum(dim=(0, 1)) / (real_R.sum() * share_RXY.shape[1]).clamp(min=1)
    shares = zip(edge_type_names(len(share_Y)), share_Y, strict=True)
    return {
        "usage": usage_E,
        "usage_entropy": torch.special.entr(usage_E).sum(),
        "distance": _mean_distance(dreams.steps_RNL3C, real_R),
        **{f"edges.{name}": share for name, share in shares},
    }


def _mean_distance(steps_RNL3C: Float[Tensor, "R N L 3 C"], real_R: Bool[Tensor, " R"]) -> Float[Tensor, ""]:
    unit_RNV = F.normalize(steps_RNL3C.float().flatten(2), dim=2)
    num_dreams = unit_RNV.shape[1]
    if num_dreams == 1:
        return unit_RNV.new_zeros(())
    # The sum over pairs, those of a dream with itself taken off.
    alike_R = (unit_RNV.sum(dim=1).square().sum(dim=1) - num_dreams) / (num_dreams * (num_dreams - 1))
    return ((1 - alike_R) * real_R).sum() / real_R.sum().clamp(min=1)
