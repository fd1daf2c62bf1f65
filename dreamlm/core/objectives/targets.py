"""What is predicted: the token behind each one, where that is real text."""

import torch
from jaxtyping import Int
from torch import Tensor


def targets_of(tokens_BX: Int[Tensor, "B X"], documents_BX: Int[Tensor, "B X"]) -> Int[Tensor, "B T"]:
    """The X = T + 1 tokens without the first; -1 for padding, what is behind padding, and places of pictures."""
    real_BT = (documents_BX[:, 1:] >= 0) & (documents_BX[:, :-1] >= 0) & (tokens_BX[:, 1:] >= 0)
    return torch.where(real_BT, tokens_BX[:, 1:], -1)
