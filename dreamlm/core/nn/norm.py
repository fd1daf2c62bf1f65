"""Normalisation over the last dimension."""

from typing import Literal, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NormName = Literal["layernorm", "rmsnorm"]


@final
class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + epsilon) * weight, in the dtype of x.

    Source: Zhang & Sennrich 2019.  Departs from `torch.nn.RMSNorm`: the weight follows the input's dtype, so that bf16
    activations keep the fused kernel although weights are fp32.
    """

    def __init__(self, size: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.epsilon = epsilon

    def forward(self, values: Tensor) -> Tensor:
        return F.rms_norm(values, self.weight.shape, self.weight.to(values.dtype), self.epsilon)


@final
class LayerNorm(nn.Module):
    """(x - mean(x)) / sqrt(var(x) + epsilon) * weight + bias, in the dtype of x.  Source: Ba, Kiros & Hinton 2016."""

    def __init__(self, size: int, epsilon: float) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(size)), nn.Parameter(torch.zeros(size))
        self.epsilon = epsilon

    def forward(self, values: Tensor) -> Tensor:
        weight, bias = self.weight.to(values.dtype), self.bias.to(values.dtype)
        return F.layer_norm(values, weight.shape, weight, bias, self.epsilon)


def build_norm(name: NormName, size: int, epsilon: float) -> RMSNorm | LayerNorm:
    return RMSNorm(size, epsilon) if name == "rmsnorm" else LayerNorm(size, epsilon)
