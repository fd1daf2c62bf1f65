"""A plain decoder as a stock transformers folder that needs no dreamlm.

`export(snapshot, target) -> Exported`, without torch. The model becomes a Llama, with QK-norm a Qwen3, and a Qwen3Next
when its attention is gated too. Weights are renamed and copied byte for byte, save what Qwen3Next wants otherwise.
"""

import json
import shutil
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from dreamlm.checkpoints.convert.naming import stock_name
from dreamlm.checkpoints.convert.placing import placed
from dreamlm.checkpoints.convert.qwen3_next import qwen3_next_config, qwen3_next_tensors
from dreamlm.checkpoints.convert.refusal import inexpressible
from dreamlm.checkpoints.convert.rope import stock_rope
from dreamlm.checkpoints.tensors import RawTensor, TensorFile, read_header, write_tensors
from dreamlm.checkpoints.verification import verify
from dreamlm.core.errors import CheckpointError, UserMistake

_EXPRESSED = {
    *("hidden_size", "num_layers", "num_heads", "num_kv_heads", "intermediate_size", "seq_length", "positions"),
    *("qk_norm", "tie_embeddings", "norm_epsilon"),
}
_EXPRESSED_LATER = {"attention_gate", "head_dim"}
"""Expressed too, but older snapshots do not say it."""
_IRRELEVANT = {"segment_length", "dropout", "mask_vector"}
"""A plain decoder computes the same for every segment length, and drops and masks nothing outside training."""
_KINDS = {"attention_activation": "softmax", "positions": "rope", "feed_forward": "swiglu", "norm": "rmsnorm"}
"""Parts of which a stock architecture has just this kind."""
_SPECIAL_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")
_GENERATION = (*_SPECIAL_TOKENS, "suppress_tokens")
_ENVELOPE = {"model_type", "architectures", "vocab_size", "dtype", "transformers_version", *_GENERATION}
"""What config.json holds beside the decoder's own configuration."""
_DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


@dataclass(frozen=True)
class Exported:
    """A folder that `transformers.AutoModelForCausalLM.from_pretrained` reads."""

    folder: str
    architecture: str
    """LlamaForCausalLM, Qwen3ForCausalLM or Qwen3NextForCausalLM."""
    parameters: int
    """Of the exported model; in a Qwen3Next, gates have as many as queries."""
    size_bytes: int


def export(snapshot: Path, target: Path) -> Exported:
    """Write the model and tokenizer of a snapshot folder into a new or empty folder.

    Raises: UserMistake when the target holds files, or naming what a stock architecture cannot express; CheckpointError
    when the snapshot is damaged; OutOfSpace.  Cost: reads the snapshot once, writes the model once.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserMistake("the target of an export must be a new or an empty folder", where=str(target))
    verify(snapshot)
    config = _read_config(snapshot / "config.json")
    _require_expressible(config, snapshot)
    weights = read_header(snapshot / "model.safetensors")
    stock, tensors = _stock_config(config, weights), _tensors(weights)
    if config.get("attention_gate"):
        stock, tensors = qwen3_next_config(stock), qwen3_next_tensors(tensors, str(snapshot))
    renamed = _renamed(tensors, bool(config["tie_embeddings"]), weights.path)
    with placed(target, sum(len(one.data) for one in renamed.values())) as folder:
        folder.mkdir()
        with ThreadPoolExecutor(max_workers=1) as hashing:
            digest = write_tensors(folder / "model.safetensors", renamed, {"format": "pt"}, hashing).result()
        _write_json(folder / "config.json", stock)
        _write_json(folder / "generation_config.json", _chosen(config, _GENERATION))
        for path in sorted(snapshot.glob("tokenizer*.json")):
            shutil.copyfile(path, folder / path.name)
    parameters = sum(prod(one.shape) for one in renamed.values())
    return Exported(str(target), stock["architectures"][0], parameters, digest.size_bytes)


def _read_config(path: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    missing = sorted((_EXPRESSED | {"eos_token_id"}) - config.keys())
    if config.get("model_type") != "dreamlm" or missing:
        why = f"lacks {', '.join(missing)}" if missing else f"has model_type {config.get('model_type')}"
        raise CheckpointError(
            f"config.json is not that of a dreamlm decoder: it {why}",
            where=str(path),
            hint="name a snapshot that dreamlm train wrote, such as RUN/checkpoints/lm_current",
        )
    return config


def _require_expressible(config: Mapping[str, Any], snapshot: Path) -> None:
    known = _EXPRESSED | _EXPRESSED_LATER | _IRRELEVANT | _ENVELOPE | _KINDS.keys()
    features = [name for name, value in config.items() if name not in known and value not in (None, False, [], {})]
    for name, kind in _KINDS.items():
        value = config.get(name, kind)
        chosen = value["type"] if isinstance(value, dict) else value
        if chosen != kind:
            features.append(f"{name} {chosen}")
    if config.get("attention_gate") and not config["qk_norm"]:
        features.append("attention_gate without qk_norm")
    if features:
        raise inexpressible(", ".join(features), str(snapshot))


def _tensors(weights: TensorFile) -> dict[str, RawTensor]:
    data = np.memmap(weights.path, np.uint8, mode="r").data
    return {
        name: RawTensor(entry.dtype, entry.shape, data[entry.start : entry.end])
        for name, entry in weights.entries.items()
        if name not in _IRRELEVANT
    }


def _renamed(tensors: Mapping[str, RawTensor], tied: bool, path: Path) -> dict[str, RawTensor]:
    names = {name: stock_name(name) for name in tensors}
    if unknown := [name for name, target in names.items() if target is None]:
        raise UserMistake(
            f"none of Llama, Qwen3 and Qwen3Next has a place for the tensors {', '.join(unknown)}", where=str(path)
        )
    return {
        target: tensors[name] for name, target in names.items() if target and not (tied and target == "lm_head.weight")
    }


def _stock_config(config: Mapping[str, Any], weights: TensorFile) -> dict[str, Any]:
    architecture, model_type = ("Qwen3ForCausalLM", "qwen3") if config["qk_norm"] else ("LlamaForCausalLM", "llama")
    gate, embedding = weights.entries["layers.0.feed_forward.gate.weight"], weights.entries["embedding.weight"]
    if embedding.dtype not in _DTYPES:
        raise CheckpointError(f"weights of type {embedding.dtype} cannot be exported", where=str(weights.path))
    return {
        "architectures": [architecture],
        "model_type": model_type,
        "vocab_size": embedding.shape[0],
        "hidden_size": config["hidden_size"],
        "intermediate_size": gate.shape[0],
        "num_hidden_layers": config["num_layers"],
        "num_attention_heads": config["num_heads"],
        "num_key_value_heads": config["num_kv_heads"] or config["num_heads"],
        "head_dim": config.get("head_dim") or config["hidden_size"] // config["num_heads"],
        "hidden_act": "silu",
        "max_position_embeddings": config["seq_length"],
        "rms_norm_eps": config["norm_epsilon"],
        **stock_rope(config["positions"], str(weights.path)),
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": config["tie_embeddings"],
        "dtype": _DTYPES[embedding.dtype],
        **_chosen(config, _SPECIAL_TOKENS),
    }


def _chosen(config: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    return {key: config[key] for key in keys if key in config}


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
