"""Small models as transformers itself writes them: random weights, and a tokenizer without padding."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

KINDS = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen3": (Qwen3Config, Qwen3ForCausalLM)}
SIZES = {
    **{"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 8},
    **{"num_key_value_heads": 2, "max_position_embeddings": 64, "rms_norm_eps": 1e-4, "initializer_range": 0.2},
}


def save_stock(folder: Path, kind: str = "llama", shard_size: str = "1GB", **settings: Any) -> Any:
    """The model that was saved, in evaluation mode."""
    tokenizer = _tokenizer(settings.pop("text", "the cat saw the dog and a cat"))
    config_class, model_class = KINDS[kind]
    dtype = settings.pop("dtype", torch.float32)
    rope = {"rope_type": "default", "rope_theta": 500.0}
    options = {**SIZES, "rope_parameters": rope, "bos_token_id": 0, "eos_token_id": 1, **settings}
    torch.manual_seed(1)
    model = model_class(config_class(vocab_size=len(tokenizer), **options)).eval()
    with torch.no_grad():  # so that a norm weight in the wrong place shows
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    model.to(dtype).save_pretrained(folder, max_shard_size=shard_size)
    tokenizer.save_pretrained(folder)
    return model


def _tokenizer(text: str) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<s>", "</s>"], initial_alphabet=sorted(alphabet), show_progress=False
    )
    backend.train_from_iterator([text] * 10, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
