"""A decoder in plain words: one row of one document, layer by layer, head by head, query by query.

It reads the options that were asked for, not a configuration, so that an option that gets lost on its way is seen.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

Weights = Mapping[str, Tensor]


def naive_logits(options: Mapping[str, Any], weights: Weights, ids: Tensor) -> Tensor:
    """Logits (T, V) of the token ids (T), in fp64; dropout and noise are off."""
    own = {name: one.detach().double() for name, one in weights.items()}
    hidden = own["embedding.weight"][ids]
    if options["positions"] == "learned":
        hidden = hidden + own["positions.table.weight"][: len(ids)]
    for layer in range(options["num_layers"]):
        here = _below(own, f"layers.{layer}")
        hidden = hidden + _attention(options, here, _norm(options, _below(here, "attention_norm"), hidden))
        normal = _norm(options, _below(here, "feed_forward_norm"), hidden)
        hidden = hidden + _feed_forward(options["feed_forward"], _below(here, "feed_forward"), normal)
    logits = _norm(options, _below(own, "norm"), hidden) @ own["head.weight"].T
    cap = options.get("logit_soft_cap")
    return cap * torch.tanh(logits / cap) if cap else logits


def _below(weights: Weights, name: str) -> Weights:
    return {key.removeprefix(f"{name}."): one for key, one in weights.items() if key.startswith(f"{name}.")}


def _norm(options: Mapping[str, Any], weights: Weights, values: Tensor) -> Tensor:
    if options["norm"] == "layernorm":
        values = values - values.mean(dim=-1, keepdim=True)
    size = (values.square().mean(dim=-1, keepdim=True) + options["norm_epsilon"]).sqrt()
    return values / size * weights["weight"] + weights.get("bias", 0.0)


def _attention(options: Mapping[str, Any], weights: Weights, hidden: Tensor) -> Tensor:
    heads, groups = options["num_heads"], options["num_kv_heads"]
    query, key, value = (
        _by_head(hidden @ weights[f"attention.{name}.weight"].T, number)
        for name, number in (("query", heads), ("key", groups), ("value", groups))
    )
    if options["qk_norm"]:
        query = [_norm(options, _below(weights, "attention.query_norm"), one) for one in query]
        key = [_norm(options, _below(weights, "attention.key_norm"), one) for one in key]
    brought = []
    for head in range(heads):
        group = head * groups // heads
        turned = [_turned(options["positions"], one) for one in (query[head], key[group])]
        mixed = torch.stack([_mixed(options, head, turned, value[group], place) for place in range(len(hidden))])
        if options["attention_gate"]:
            mixed = mixed * (2 / (1 + torch.exp(-hidden @ weights["attention.gate.weight"][head])))[:, None]
        brought.append(mixed)
    return torch.cat(brought, dim=-1) @ weights["attention.output.weight"].T


def _by_head(projected: Tensor, number: int) -> list[Tensor]:
    return list(projected.chunk(number, dim=-1))


def _turned(positions: Any, vectors: Tensor) -> Tensor:
    """Rotary: components k and k + K/2 turn together, by theta ** (-2k / K) radians per token."""
    if not isinstance(positions, Mapping) or positions["type"] != "rope":
        return vectors
    half = vectors.shape[1] // 2
    turned = vectors.clone()
    for place in range(len(vectors)):
        for k in range(half):
            angle = place * positions["theta"] ** (-k / half)
            first, second = vectors[place, k], vectors[place, k + half]
            turned[place, k] = first * math.cos(angle) - second * math.sin(angle)
            turned[place, k + half] = second * math.cos(angle) + first * math.sin(angle)
    return turned


def _mixed(options: Mapping[str, Any], head: int, turned: list[Tensor], value: Tensor, place: int) -> Tensor:
    query, key = turned[0][place], turned[1][: place + 1]
    scores = key @ query / math.sqrt(len(query))
    if options["positions"] == "alibi":
        slope = 2.0 ** (-8.0 * (head + 1) / options["num_heads"])
        scores = scores - slope * torch.arange(place, -1, -1)
    weight = scores.softmax(dim=0) if options["attention_activation"] == "softmax" else _sparsemax(scores)
    return weight @ value[: place + 1]


def _sparsemax(scores: Tensor) -> Tensor:
    total, threshold = 0.0, 0.0
    for number, score in enumerate(sorted(scores.tolist(), reverse=True), start=1):
        total += score
        if 1 + number * score > total:
            threshold = (total - 1) / number
    return (scores - threshold).clamp(min=0)


def _feed_forward(kind: Any, weights: Weights, hidden: Tensor) -> Tensor:
    if isinstance(kind, Mapping):
        return torch.stack([_experts(kind["top_k"], weights, vector) for vector in hidden])
    inside = hidden @ weights["up.weight"].T
    if kind == "swiglu":
        return _swiglu(weights, hidden)
    if kind == "relu2":
        return inside.clamp(min=0) ** 2 @ weights["down.weight"].T
    smooth = 0.5 * inside * (1 + torch.tanh(math.sqrt(2 / math.pi) * (inside + 0.044715 * inside**3)))
    if kind == "learnable":
        mix = _below(weights, "activation")
        smooth = mix["gelu"] * smooth + mix["relu2"] * inside.clamp(min=0) ** 2 + mix["tanh"] * inside.tanh()
    return smooth @ weights["down.weight"].T


def _swiglu(weights: Weights, hidden: Tensor) -> Tensor:
    gate = hidden @ weights["gate.weight"].T
    return (gate / (1 + torch.exp(-gate)) * (hidden @ weights["up.weight"].T)) @ weights["down.weight"].T


def _experts(top_k: int, weights: Weights, vector: Tensor) -> Tensor:
    """Mixed by the softmax over those chosen; a single one counts as much as it is likely among all."""
    logits = weights["gate.clean.weight"] @ vector
    chosen = sorted(range(len(logits)), key=lambda expert: -logits[expert])[:top_k]
    share = logits.softmax(dim=0)[chosen] if top_k == 1 else logits[chosen].softmax(dim=0)
    return sum(
        part * _swiglu(_below(weights, f"experts.{one}"), vector) for part, one in zip(share, chosen, strict=True)
    )
