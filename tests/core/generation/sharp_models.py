"""Untrained models whose choices are far from uniform, so that a mistake in reading or choosing changes their texts."""

import torch

from dreamlm.core.nn.decoder import DreamLM


def sharp_model(vocab_size: int, seq_length: int = 64, positions: str = "rope") -> DreamLM:
    torch.manual_seed(5)
    config = DreamLM.Config(hidden_size=32, num_layers=2, num_heads=2, seq_length=seq_length, positions=positions)
    model = config.build(vocab_size)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(4)
    return model
