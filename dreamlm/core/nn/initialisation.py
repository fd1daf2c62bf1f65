"""How fresh weights are drawn."""

import math

import torch
from torch import nn

EMBEDDINGS = ("embedding.weight", "head.weight", "positions.table.weight")
RESIDUAL_WRITERS = ("attention.output.weight", ".down.weight", "residual.weight")
"""Endings of the names of what writes to the residual stream."""


@torch.no_grad()
def initialise(part: nn.Module, num_layers: int) -> None:
    """Normal(0, 0.4/sqrt(fan_in)) matrices; what writes to the residual stream is scaled by 1/sqrt(2 layers).

    Embedding and head: Normal(0, 0.3/sqrt(D)), so that the logits of a fresh model have a deviation of 0.3 and the
    first loss is ln V + 0.045 at any width. The fan-in of a convolution is its whole kernel. Vectors stay as their
    layer made them.
    Source: GPT-2's residual scaling (Radford et al. 2019).
    """
    for name, parameter in part.named_parameters():
        if parameter.ndim < 2:
            continue
        fan_in = parameter[0].numel() if parameter.ndim == 4 else parameter.shape[-1]
        std = (0.3 if name in EMBEDDINGS else 0.4) / math.sqrt(fan_in)
        if name.endswith(RESIDUAL_WRITERS):
            std /= math.sqrt(2 * num_layers)
        parameter.normal_(0.0, std)
