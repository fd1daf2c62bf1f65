"""Names of weights: dreamlm's, and those that the stock Llama, Qwen3 and Qwen3Next of transformers share."""

import re

_STOCK_NAMES = {
    "embedding.weight": "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    "head.weight": "lm_head.weight",
    "layers.#.attention_norm.weight": "model.layers.#.input_layernorm.weight",
    "layers.#.attention.query.weight": "model.layers.#.self_attn.q_proj.weight",
    "layers.#.attention.key.weight": "model.layers.#.self_attn.k_proj.weight",
    "layers.#.attention.value.weight": "model.layers.#.self_attn.v_proj.weight",
    "layers.#.attention.output.weight": "model.layers.#.self_attn.o_proj.weight",
    "layers.#.attention.query_norm.weight": "model.layers.#.self_attn.q_norm.weight",
    "layers.#.attention.key_norm.weight": "model.layers.#.self_attn.k_norm.weight",
    "layers.#.feed_forward_norm.weight": "model.layers.#.post_attention_layernorm.weight",
    "layers.#.feed_forward.gate.weight": "model.layers.#.mlp.gate_proj.weight",
    "layers.#.feed_forward.up.weight": "model.layers.#.mlp.up_proj.weight",
    "layers.#.feed_forward.down.weight": "model.layers.#.mlp.down_proj.weight",
}
"""# stands for the number of a layer."""
_OWN_NAMES = {stock: own for own, stock in _STOCK_NAMES.items()}


def stock_name(name: str) -> str | None:
    """What transformers calls a weight of dreamlm's; None when its models have none of that meaning."""
    return _translated(name, _STOCK_NAMES)


def own_name(name: str) -> str | None:
    """What dreamlm calls a weight of a stock model; None when a decoder has no such weight."""
    return _translated(name, _OWN_NAMES)


def _translated(name: str, names: dict[str, str]) -> str | None:
    number = re.search(r"(?<=\blayers\.)\d+(?=\.)", name)
    if number is None:
        return names.get(name)
    found = names.get(f"{name[: number.start()]}#{name[number.end() :]}")
    return found.replace("#", number.group()) if found else None
