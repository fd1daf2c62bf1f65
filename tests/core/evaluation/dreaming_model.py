"""Untrained models whose tokens heed what was dreamt."""

import math
from typing import Any

import torch
from thinking_model import SEGMENT, VOCAB, WINDOW

from dreamlm.core.nn.decoder import DreamLM

MODULE, DREAMS, EXPERTS = "dreaming", 2, 4


def dreaming_model(kind: str = "causal", **settings: Any) -> DreamLM:
    module = {
        **{"type": MODULE, "num_dream_sequences": DREAMS, "dream_length": 2, "graph_reasoning_hops": 2},
        **{"num_experts": EXPERTS, "expert_num_layers": 1, "expert_num_heads": 2, "graph_num_heads": 2},
        **settings,
    }
    values = {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "seq_length": WINDOW, "segment_length": SEGMENT}
    trunk = {"diffusion": {"block_size": SEGMENT // 2}} if kind == "diffusion" else {}
    torch.manual_seed(0)
    model = DreamLM.Config.model_validate({**values, **trunk, "modules": [module]}).build(VOCAB).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn_like(parameter)
            parameter.copy_(1 + 0.3 * noise if parameter.ndim < 2 else 2 * noise / math.sqrt(parameter.shape[-1]))
    return model
