"""What of a window is read, and what is predicted: the token behind each one, where that is real text."""

import torch
from jaxtyping import Int
from torch import Tensor


def targets_of(tokens_BX: Int[Tensor, "B X"], documents_BX: Int[Tensor, "B X"]) -> Int[Tensor, "B T"]:
    """The X = T + 1 tokens without the first; -1 for padding, what is behind padding, and places of pictures."""
    real_BT = (documents_BX[:, 1:] >= 0) & (documents_BX[:, :-1] >= 0) & (tokens_BX[:, 1:] >= 0)
    return torch.where(real_BT, tokens_BX[:, 1:], -1)


def documents_read(documents_BX: Int[Tensor, "B X"]) -> Int[Tensor, "B T"]:
    """The documents of the first T = X - 1 tokens; -1 too for the last token of a row, behind which padding stands.

    So a window costs what it does without padding: of that one too the last token is predicted, and not read.
    """
    last_BX = documents_BX.flip(1).cummax(dim=1).values.flip(1)
    return torch.where(last_BX[:, 1:] >= 0, documents_BX[:, :-1], -1)
