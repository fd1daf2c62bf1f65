"""Model folders of transformers, Llama, Qwen3, Qwen3Next or dreamlm's own, as a decoder's configuration and weights.

    read_decoder(folder) -> DreamLM.Config     refuses by name what a decoder cannot express
    check_weights(folder, config) -> tokens    by the headers: what is damaged is told before anything is begun
    read_weights(folder, config) -> tensors    by dreamlm's names, from one safetensors file or from its shards

The configuration is read by transformers itself, so that every version's spelling and defaults are understood.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from pydantic_core import ErrorDetails
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from dreamlm.checkpoints.convert.naming import own_name
from dreamlm.checkpoints.convert.qwen3_next import own_tensors, stock_shapes
from dreamlm.checkpoints.convert.rope import own_rope
from dreamlm.checkpoints.tensors import TensorFile, read_header
from dreamlm.core.errors import CheckpointError, UserMistake
from dreamlm.core.nn.decoder import DreamLM

CONFIG = "config.json"
ADAPTER = "adapter_config.json"
WEIGHTS = "model.safetensors"
SHARDS = "model.safetensors.index.json"
KINDS = ("dreamlm", "llama", "qwen3", "qwen3_next")
_STOCK_KEYS = {
    "hidden_size": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "num_kv_heads": "num_key_value_heads",
    "intermediate_size": "intermediate_size",
    "seq_length": "max_position_embeddings",
    "tie_embeddings": "tie_word_embeddings",
    "norm_epsilon": "rms_norm_eps",
}
"""The key of a stock config.json that says what a key of `DreamLM.Config` says."""
_COMPUTED = ".rotary_emb.inv_freq"
"""Ends the name of a constant that old exports stored among the weights."""


def read_decoder(folder: Path) -> DreamLM.Config:
    """The configuration under which a decoder computes what the model in the folder does.

    Raises: UserMistake naming what a decoder cannot express, or when the folder is no model of a known kind.
    """
    config = _configuration(folder)
    if config.model_type not in KINDS:
        raise UserMistake(f"a model of type {config.model_type!r} cannot be taken over", where=str(folder), valid=KINDS)
    if config.model_type == "dreamlm":
        own: DreamLM.Config = config.decoder_config()
        return own
    config.standardize_rope_params()  # once more: old spellings at the top level are not heard the first time
    if features := list(_inexpressible(config)):
        raise UserMistake(f"a dreamlm decoder cannot express this model's {', '.join(features)}", where=str(folder))
    values = {own: getattr(config, stock) for own, stock in _STOCK_KEYS.items()} | {
        "head_dim": _head_dim(config),
        "positions": own_rope(config.rope_parameters, str(folder)),
        "attention_gate": config.model_type == "qwen3_next",
        "qk_norm": config.model_type != "llama",
    }
    try:
        return DreamLM.Config.model_validate(values)
    except ValidationError as error:
        reasons = "; ".join(map(_reason, error.errors()))
        raise UserMistake(
            f"a dreamlm decoder cannot be what this model's configuration says: {reasons}", where=str(folder)
        ) from error


def _head_dim(config: Any) -> int | None:
    """None where it is what it would be anyway."""
    usual = config.hidden_size // max(1, config.num_attention_heads)
    return None if config.head_dim in (None, usual) else config.head_dim


def _reason(detail: ErrorDetails) -> str:
    """What is wrong, behind the key of config.json at which it is wrong."""
    what = detail["msg"].removeprefix("Value error, ")
    if not detail["loc"]:
        return what
    first, *inner = map(str, detail["loc"])
    return f"{'.'.join([_STOCK_KEYS.get(first, first), *inner])}: {what}"


def check_weights(folder: Path, config: DreamLM.Config) -> int:
    """How many tokens the model has vectors of, once the headers of its files have been found to be such a decoder's.

    No tensor is read, but a head that is stored although it is tied, and its embedding.
    Raises: CheckpointError when files are missing, damaged, or of another model; UserMistake as `read_weights`.
    """
    kind = _configuration(folder).model_type
    stored = {name: (path, entry) for path in _files(folder) for name, entry in _header(path).entries.items()}
    names = {own: name for name, own in _own_names(stored, kind, folder).items()}
    found = {own: stored[name][1].shape for own, name in names.items()}
    if config.tie_embeddings and "head.weight" in found:
        del found["head.weight"]
        if "embedding.weight" in found:
            head, embedding = names["head.weight"], names["embedding.weight"]
            _require_same(_tensor(stored[head][0], head), _tensor(stored[embedding][0], embedding), folder)
    [tokens, *_] = found.get("embedding.weight") or (1,)
    expected = _shapes(config, tokens)
    if kind == "qwen3_next":
        expected = stock_shapes(expected)
    if different := sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)):
        raise CheckpointError(
            f"the weights to start from are not those of their configuration: {', '.join(different)}",
            where=str(folder),
            hint=f"{CONFIG} and the weights must be of one model: fetch or export it again",
        )
    return tokens


def read_weights(folder: Path, config: DreamLM.Config) -> dict[str, Tensor]:
    """The weights on the CPU, in the precision of the files (norms of a Qwen3Next: fp32); a tied head is left to the
    embedding.

    Raises: CheckpointError when files are missing or damaged, or a tied head is stored and is another than the
    embedding; UserMistake naming weights a decoder has no place for.
    """
    kind = _configuration(folder).model_type
    tensors: dict[str, Tensor] = {}
    for path in _files(folder):
        try:
            tensors |= load_file(path)
        except (OSError, SafetensorError) as error:
            raise _damaged(f"the weights cannot be read: {error}", path) from error
    weights = {own: tensors[name] for name, own in _own_names(tensors, kind, folder).items()}
    if config.tie_embeddings and "head.weight" in weights:
        _require_same(weights.pop("head.weight"), weights.get("embedding.weight"), folder)
    return own_tensors(weights, config.num_heads, str(folder)) if kind == "qwen3_next" else weights


def _tensor(path: Path, name: str) -> Tensor:
    with safe_open(path, framework="pt") as file:
        tensor: Tensor = file.get_tensor(name)
    return tensor


def _require_same(head_VD: Tensor, embedding_VD: Tensor | None, folder: Path) -> None:
    """Where they differ, transformers goes by the file and not by the configuration: nobody knows what was meant."""
    if embedding_VD is not None and torch.equal(head_VD, embedding_VD):
        return
    what = "head.weight is another than embedding.weight, and the configuration says that they are one"
    hint = (
        f'if the head was trained apart, set "tie_word_embeddings": false in {CONFIG}; if not, leave it out of the file'
    )
    raise CheckpointError(what, where=str(folder), hint=hint)


def _own_names(names: Iterable[str], kind: str, folder: Path) -> dict[str, str]:
    """What dreamlm calls each weight of the files, but for constants that are computed."""
    named = {name: name if kind == "dreamlm" else own_name(name) for name in names}
    homeless = [name for name, own in named.items() if own is None and not name.endswith(_COMPUTED)]
    if homeless:
        what = f"a dreamlm decoder has no place for the weights {', '.join(sorted(homeless))}"
        raise UserMistake(what, where=str(folder))
    return {name: own for name, own in named.items() if own is not None}


def _header(path: Path) -> TensorFile:
    try:
        return read_header(path)
    except CheckpointError as error:
        raise _damaged(f"the weights cannot be read: {error.what}", path) from error


def _damaged(what: str, path: Path) -> CheckpointError:
    return CheckpointError(what, where=str(path), hint="copy the folder of the model again, or download it anew")


def _shapes(config: DreamLM.Config, vocab_size: int) -> dict[str, tuple[int, ...]]:
    """Of every weight of a decoder, by dreamlm's names; a tied head has none of its own."""
    with torch.device("meta"):
        decoder = config.build(vocab_size)
    return {name: tuple(parameter.shape) for name, parameter in decoder.named_parameters()}


def _configuration(folder: Path) -> Any:
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig  # over a second of import time

    hint = "name a folder with a config.json and safetensors files, or a run of dreamlm's"
    if (folder / ADAPTER).exists():  # which transformers would put upon the weights beside it
        raise UserMistake(
            "an adapter lies here, and a dreamlm decoder has no place for one",
            where=str(folder / ADAPTER),
            hint="with peft, save model.merge_and_unload() to a folder of its own, and name that",
        )
    if not (folder / CONFIG).is_file():  # transformers may guess a type from the folder's name
        raise UserMistake(f"no model of transformers lies here: there is no {CONFIG}", where=str(folder), hint=hint)
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except StrictDataclassError as error:  # says the key on its first line, and what is wrong with it on the next
        raise _unreadable(" ".join(str(error).split()), folder) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError) as error:
        raise _unreadable(str(error).strip().splitlines()[0], folder) from error


def _unreadable(reason: str, folder: Path) -> UserMistake:
    what = f"transformers cannot read the model's {CONFIG}: {reason}"
    return UserMistake(what, where=str(folder), hint=f"complete {CONFIG}, or fetch the model again")


def _inexpressible(config: Any) -> Iterator[str]:
    """What a stock model can be told and a decoder cannot, as `key value`."""
    if config.hidden_act not in ("silu", "swish"):
        yield f"hidden_act {config.hidden_act}"
    yield from (f"{key} true" for key in ("attention_bias", "mlp_bias") if getattr(config, key, False))
    if not getattr(config, "is_causal", True):
        yield "is_causal false"
    others = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    yield from (f"layer_types {kind}" for kind in sorted(others))
    dense = set(getattr(config, "mlp_only_layers", None) or ())
    if getattr(config, "num_experts", 0) and not dense.issuperset(range(config.num_hidden_layers)):
        yield f"num_experts {config.num_experts}"
    if getattr(config, "quantization_config", None):
        yield "quantization_config"


def _files(folder: Path) -> list[Path]:
    if (folder / WEIGHTS).exists():
        return [folder / WEIGHTS]
    try:
        index = json.loads((folder / SHARDS).read_text(encoding="utf-8"))
        return [folder / name for name in sorted(set(index["weight_map"].values()))]
    except FileNotFoundError as error:
        raise CheckpointError(
            f"there is neither {WEIGHTS} nor {SHARDS}",
            where=str(folder),
            hint="in transformers, model.save_pretrained(folder) writes safetensors",
        ) from error
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{SHARDS} is damaged: {error}", where=str(folder)) from error
