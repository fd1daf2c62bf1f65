"""Which models of transformers a decoder can take over, and what it says about the others."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from dreamlm.checkpoints.convert.naming import own_name, stock_name
from dreamlm.checkpoints.convert.rope import own_rope, stock_rope
from dreamlm.checkpoints.convert.stock import read_decoder, read_weights
from dreamlm.core.errors import CheckpointError, UserMistake
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.nn.positions.rotary import Rotary

SMOL = {
    "model_type": "llama",
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-05,
    "rope_theta": 100000,
    "rope_scaling": None,
    "tie_word_embeddings": True,
    "vocab_size": 49152,
}
"""The configuration of a small public model, in the words of transformers 4."""
LLAMA3 = {
    **{"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    "original_max_position_embeddings": 1024,
}
QWEN = {**SMOL, "model_type": "qwen3", "head_dim": 64}


def folder_of(path: Path, config: dict[str, Any]) -> Path:
    (path / "config.json").write_text(json.dumps(config))
    return path


def test_a_configuration_of_an_older_transformers_is_understood(tmp_path: Path) -> None:
    config = read_decoder(folder_of(tmp_path, {**SMOL, "rms_norm_eps": 1e-3}))
    assert config == DreamLM.Config(
        hidden_size=576,
        intermediate_size=1536,
        num_layers=30,
        num_heads=9,
        num_kv_heads=3,
        seq_length=2048,
        positions=Rotary.Config(theta=100000),
        norm_epsilon=1e-3,
        qk_norm=False,
        tie_embeddings=True,
    )
    qwen, wide = (read_decoder(folder_of(tmp_path, QWEN | {"head_dim": size})) for size in (64, 128))
    assert qwen.qk_norm
    assert (qwen.head_dim, wide.head_dim) == (None, 128)
    assert (qwen.head_size, wide.head_size) == (64, 128)


@pytest.mark.parametrize("spelling", ["type", "rope_type"])
@pytest.mark.parametrize(
    "scaling",
    [
        {"type": "linear", "factor": 4.0},
        {"type": "yarn", "factor": 4.0, "original_length": 512, "beta_fast": 20.0, "beta_slow": 2.0},
        {"type": "llama3", "factor": 8.0, "original_length": 512, "beta_fast": 5.0, "beta_slow": 2.0},
    ],
    ids=lambda scaling: str(scaling["type"]),
)
def test_scaled_positions_are_understood_in_both_spellings(
    tmp_path: Path, scaling: dict[str, Any], spelling: str
) -> None:
    own = {"type": spelling, "original_length": "original_max_position_embeddings"}
    if scaling["type"] == "llama3":
        own |= {"beta_fast": "high_freq_factor", "beta_slow": "low_freq_factor"}
    stock = {own.get(key, key): value for key, value in scaling.items()}
    config = read_decoder(folder_of(tmp_path, SMOL | {"rope_scaling": stock}))
    assert config.positions == Rotary.Config.model_validate({"theta": 100000, "scaling": scaling})


@pytest.mark.parametrize(
    ("config", "feature"),
    [
        (SMOL | {"attention_bias": True}, "attention_bias true"),
        (SMOL | {"mlp_bias": True, "hidden_act": "gelu"}, "hidden_act gelu, mlp_bias true"),
        (QWEN | {"use_sliding_window": True, "max_window_layers": 5}, "layer_types sliding_attention"),
        (SMOL | {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_type dynamic"),
        (SMOL | {"rope_scaling": {**LLAMA3, "attention_factor": 2.0}}, "llama3 attention_factor 2.0"),
        (
            SMOL | {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "attention_factor": 1.5}},
            "yarn attention_factor 1.5",
        ),
        (SMOL | {"is_causal": False}, "is_causal false"),
        (SMOL | {"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantization_config"),
    ],
)
@pytest.mark.filterwarnings("default")  # transformers has its own opinion of such configurations
def test_what_a_decoder_cannot_express_is_refused_by_name(tmp_path: Path, config: dict[str, Any], feature: str) -> None:
    with pytest.raises(UserMistake, match=f"cannot express this model's {feature}"):
        read_decoder(folder_of(tmp_path, config))


def test_sizes_that_no_decoder_has_are_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(UserMistake, match=r"configuration says: .*must be num_heads 192 times an even head size"):
        read_decoder(folder_of(tmp_path, SMOL | {"num_attention_heads": 192, "num_key_value_heads": 192}))


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("rms_norm_eps", 1, "field 'rms_norm_eps': TypeError: .* expected float, got int"),
        ("vocab_size", None, "field 'vocab_size': TypeError: .* expected int"),
        ("num_attention_heads", 5, "not a multiple of the number of attention heads"),
        ("num_attention_heads", 0, "modulo by zero"),
        ("rope_scaling", "linear", "field 'rope_parameters'"),
        ("rope_theta", None, "lacks rope_theta"),
        ("dtype", "nonsense", "nonsense"),
        ("max_position_embeddings", 1, "max_position_embeddings: Input should be greater than or equal to 2"),
    ],
)
@pytest.mark.filterwarnings("default")
def test_what_is_wrong_in_a_configuration_is_told_with_its_key(
    tmp_path: Path, key: str, value: Any, reason: str
) -> None:
    with pytest.raises(UserMistake, match=f"config.*{reason}"):
        read_decoder(folder_of(tmp_path, SMOL | {key: value}))


def test_a_model_of_another_kind_is_refused_with_those_that_are_not(tmp_path: Path) -> None:
    with pytest.raises(UserMistake, match="type 'gpt2' cannot be taken over") as caught:
        read_decoder(folder_of(tmp_path, {"model_type": "gpt2"}))
    assert caught.value.valid == ("dreamlm", "llama", "qwen3", "qwen3_next")


def test_weights_with_an_adapter_beside_them_are_not_taken_without_it(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, SMOL)
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(UserMistake, match="an adapter lies here") as caught:
        read_decoder(folder)
    assert caught.value.where == str(folder / "adapter_config.json")
    assert "merge_and_unload" in str(caught.value.hint)


def weights_in(folder: Path, **more: torch.Tensor) -> Path:
    save_file({"model.norm.weight": torch.ones(4), **more}, folder / "model.safetensors")
    return folder_of(folder, SMOL)


def test_a_weight_without_a_place_is_refused_by_name_and_a_stored_constant_is_not(tmp_path: Path) -> None:
    constant = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(2)}
    assert read_weights(weights_in(tmp_path, **constant), DreamLM.Config()).keys() == {"norm.weight"}
    with pytest.raises(UserMistake, match=r"no place for the weights model\.layers\.0\.self_attn\.q_proj\.bias"):
        read_weights(weights_in(tmp_path, **{"model.layers.0.self_attn.q_proj.bias": torch.ones(2)}), DreamLM.Config())


def test_a_tied_head_that_is_stored_all_the_same_must_be_the_embedding(tmp_path: Path) -> None:
    table = torch.arange(8.0).view(2, 4)
    equal = {"model.embed_tokens.weight": table, "lm_head.weight": table.clone()}
    tied, untied = (DreamLM.Config(tie_embeddings=one) for one in (True, False))
    folder = weights_in(tmp_path, **equal)
    assert "head.weight" not in read_weights(folder, tied)
    assert "head.weight" in read_weights(folder, untied)
    folder = weights_in(tmp_path, **(equal | {"lm_head.weight": table + 1}))
    with pytest.raises(CheckpointError, match=r"head\.weight is another than embedding\.weight") as caught:
        read_weights(folder, tied)
    assert "tie_word_embeddings" in str(caught.value.hint)
    assert torch.equal(read_weights(folder, untied)["head.weight"], table + 1)


def test_missing_and_damaged_weights_are_told_apart(tmp_path: Path) -> None:
    folder_of(tmp_path, SMOL)
    with pytest.raises(CheckpointError, match=r"there is neither model\.safetensors nor"):
        read_weights(tmp_path, DreamLM.Config())
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"index\.json is damaged"):
        read_weights(tmp_path, DreamLM.Config())
    (tmp_path / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(CheckpointError, match="the weights cannot be read"):
        read_weights(tmp_path, DreamLM.Config())


def test_every_weight_of_a_decoder_has_a_stock_name_that_leads_back() -> None:
    model = DreamLM.Config(num_layers=12, hidden_size=16, num_heads=2).build(300)
    names = [name for name, _ in model.named_parameters()] + ["head.weight"]
    assert all(own_name(stock_name(name) or "") == name for name in names)
    assert len({stock_name(name) for name in names}) == len(names)


@given(st.text("layers.#0123 norm", max_size=30))
def test_a_name_that_is_none_of_them_is_not_translated(name: str) -> None:
    translated = stock_name(name)
    assert translated is None or own_name(translated) == name


@pytest.mark.parametrize(
    "scaling",
    [
        "none",
        {"type": "linear", "factor": 2.5},
        {"type": "yarn", "factor": 4.0, "original_length": 256, "beta_fast": 20.0},
        {"type": "llama3", "factor": 4.0, "original_length": 256, "beta_fast": 20.0},
    ],
)
def test_rotary_positions_come_back_from_the_words_of_transformers(scaling: Any) -> None:
    positions = Rotary.Config.model_validate({"theta": 700.0, "scaling": scaling})
    stock = stock_rope(positions.model_dump(mode="json"), "here")
    assert Rotary.Config.model_validate(own_rope(stock["rope_parameters"], "there")) == positions
