"""Root-mean-square normalisation."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + epsilon) * weight over the last dimension, in the dtype of x.

    Source: Zhang & Sennrich 2019.  Departs from `torch.nn.RMSNorm`: the weight follows the input's dtype, so that bf16
    activations keep the fused kernel although weights are fp32.
    """

    def __init__(self, size: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.epsilon = epsilon

    def forward(self, values: Tensor) -> Tensor:
        return F.rms_norm(values, self.weight.shape, self.weight.to(values.dtype), self.epsilon)
