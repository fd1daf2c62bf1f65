"""A small decoder that dreams, with random weights everywhere, and what its module is given."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from dreamlm.core.modules.dreaming.dreaming import Dreaming
from dreamlm.core.nn.decoder import DreamLM

VOCAB, SEGMENT, SIZE = 23, 4, 16
SMALL = {
    **{"type": "dreaming", "num_dream_sequences": 2, "dream_length": 3, "graph_reasoning_hops": 2, "num_experts": 4},
    **{"expert_num_layers": 1, "expert_num_heads": 4, "graph_num_heads": 2, "max_dream_length": 5},
}
TRUNK = {"hidden_size": SIZE, "num_layers": 2, "num_heads": 2, "seq_length": 16, "segment_length": SEGMENT}


def decoder(trunk: Mapping[str, object] | None = None, **settings: object) -> DreamLM:
    torch.manual_seed(0)
    values = {**TRUNK, **(trunk or {}), "modules": [{**SMALL, **settings}]}
    model = DreamLM.Config.model_validate(values).build(VOCAB).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.3 * noise if parameter.ndim < 2 else noise / math.sqrt(parameter.shape[-1]))
    return model


def dreaming(**settings: object) -> Dreaming:
    return module_of(decoder(**settings))


def module_of(model: DreamLM) -> Dreaming:
    module = model.cognition[0]
    assert isinstance(module, Dreaming)
    return module


def window(rows: int = 3, length: int = 16, seed: int = 1) -> Tensor:
    return torch.randint(0, VOCAB, (rows, length), generator=torch.Generator().manual_seed(seed))


def segments_of(rows: int = 3, seed: int = 2, size: int = SIZE) -> tuple[Tensor, Tensor]:
    """Vectors of a segment, all tokens of it real."""
    hidden = torch.randn(rows, SEGMENT, size, generator=torch.Generator().manual_seed(seed))
    return hidden, torch.ones(rows, SEGMENT, dtype=torch.bool)


def roles_of(rows: int, seed: int = 3) -> tuple[Tensor, Tensor]:
    roles = torch.randn(rows, 3, SIZE, generator=torch.Generator().manual_seed(seed))
    return roles, torch.ones(rows, dtype=torch.bool)


def steps_of(rows: int, dreams: int, length: int, seed: int = 4) -> Tensor:
    return torch.randn(rows, dreams, length, 3, SIZE, generator=torch.Generator().manual_seed(seed))
