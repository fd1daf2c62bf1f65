"""A policy small enough for tests, plain or with a module that carries state between segments."""

from typing import Any

import torch

from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.rl.answer import Prompt
from dreamlm.core.tokenizer import BytePair, Tokenizer

TEXT = "the sea and the night and the ship and the man at the sea "
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "grouped": {"num_kv_heads": 1, "qk_norm": False, "positions": "alibi"},
    "with a module": {"segment_length": 8, "modules": [{"type": "segment_summary"}]},
    "experts": {"feed_forward": {"type": "moe", "num_experts": 4, "top_k": 2}},
}


def small_tokenizer() -> Tokenizer:
    return BytePair(vocab_size=280).build([TEXT])


def small_model(kind: str = "plain", seed: int = 0, **options: Any) -> DreamLM:
    """Weights far from fresh ones, so that every part matters and probabilities are uneven."""
    values = {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "seq_length": 48, **KINDS[kind], **options}
    torch.manual_seed(seed)
    model = DreamLM.Config.model_validate(values).build(284)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


PROMPTS = [Prompt("the sea"), Prompt("a"), Prompt("the night and the ship at"), Prompt(TEXT * 3), Prompt("")]
