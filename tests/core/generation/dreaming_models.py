"""Untrained models that dream, and whose choices are far from uniform."""

import torch

from dreamlm.core.nn.decoder import DreamLM

SEGMENT = 8
DREAMS, STEPS, EXPERTS = 2, 3, 4


def dreamer(vocab_size: int, modules: int = 1, seq_length: int = 64, block: int | None = None) -> DreamLM:
    torch.manual_seed(5)
    one = {"type": "dreaming", "num_dream_sequences": DREAMS, "dream_length": STEPS, "num_experts": EXPERTS}
    heads = {"expert_num_heads": 2, "graph_num_heads": 2, "dream_size": 16, "graph_reasoning_hops": 1}
    values = {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "seq_length": seq_length, "segment_length": SEGMENT}
    diffusion = {} if block is None else {"diffusion": {"block_size": block}}
    model = DreamLM.Config.model_validate({**values, **diffusion, "modules": [{**one, **heads}] * modules})
    built = model.build(vocab_size).eval()
    with torch.no_grad():
        for parameter in built.parameters():
            if parameter.ndim == 2:
                parameter.mul_(4)
    return built
