"""A feed-forward layer by itself, and something for it to map."""

from typing import Any

import torch
from pydantic import TypeAdapter
from torch import Tensor

from dreamlm.core.nn.feedforward import FeedForwardConfig
from dreamlm.core.nn.feedforward.feedforward import FeedForward
from dreamlm.core.nn.phase import Phase
from dreamlm.core.nn.positions.positions import Unplaced
from dreamlm.core.nn.signal import Segment

WIDTH, ROWS, LENGTH = 16, 3, 8


def build(config: Any, num_layers: int = 2) -> FeedForward:
    torch.manual_seed(0)
    layer = TypeAdapter(FeedForwardConfig).validate_python(config).build(WIDTH, 48, num_layers)
    for parameter in layer.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.5)
    return layer


def hidden() -> Tensor:
    return torch.randn(ROWS, LENGTH, WIDTH, generator=torch.Generator().manual_seed(1))


def segment(documents: Tensor | None = None) -> Segment:
    documents = torch.zeros(ROWS, LENGTH, dtype=torch.int32) if documents is None else documents
    position = torch.arange(LENGTH).expand(ROWS, LENGTH)
    return Segment(documents, position, None, Unplaced(), Phase(0, LENGTH, LENGTH, ()))
