"""Gated attention survives an export, as Qwen3Next, and comes back from one."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_convert import build, logits, save

from dreamlm.checkpoints.convert.llama import export
from dreamlm.checkpoints.convert.stock import read_decoder, read_weights
from dreamlm.core.errors import CheckpointError, UserMistake
from dreamlm.core.nn.decoder import DreamLM

YARN = {"type": "yarn", "factor": 4, "original_length": 16, "beta_fast": 8, "beta_slow": 2}
LINEAR = {"type": "linear", "factor": 4}


def gated(scaling: dict[str, Any] | None = None, **settings: Any) -> DreamLM:
    """Random weights everywhere, in norms and gates too."""
    positions = {"type": "rope", "theta": 500.0} | ({"scaling": scaling} if scaling else {})
    return build(attention_gate=True, seq_length=64, norm_epsilon=1e-3, positions=positions, **settings)


def peer_of(snapshot: Path, folder: Path) -> Any:
    """What transformers makes of the export: a Qwen3Next in which every weight found its place."""
    from transformers import AutoModelForCausalLM

    exported = export(snapshot, folder)
    peer, told = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False, output_loading_info=True)
    assert type(peer).__name__ == exported.architecture == "Qwen3NextForCausalLM"
    assert exported.parameters == peer.num_parameters()
    assert not any(told.values()), told
    return peer.eval()


def some_tokens(rows: int, length: int) -> torch.Tensor:
    return torch.randint(3, 258, (rows, length), generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("scaling", [None, LINEAR, YARN], ids=["plain", "linear", "yarn"])
@pytest.mark.parametrize(("tied", "kv_heads"), [(False, 2), (True, 2), (True, None), (False, 1)])
def test_transformers_computes_the_same_logits_of_a_gated_model(
    tmp_path: Path, tied: bool, kv_heads: int | None, scaling: dict[str, Any] | None
) -> None:
    model = gated(scaling, tie_embeddings=tied, num_kv_heads=kv_heads, head_dim=None if tied else 12)
    peer, tokens = peer_of(save(tmp_path, model), tmp_path / "stock"), some_tokens(2, 64)
    expected = logits(model, tokens)
    with torch.no_grad():
        assert (peer(tokens).logits - expected).abs().max() < 1e-5 * expected.abs().max()


def test_transformers_writes_the_same_tokens_with_and_without_its_cache(tmp_path: Path) -> None:
    model = gated()
    peer, prompts = peer_of(save(tmp_path, model), tmp_path / "stock"), some_tokens(3, 6)
    wish = {"attention_mask": torch.ones_like(prompts), "do_sample": False, "min_new_tokens": 20, "max_new_tokens": 20}
    written = peer.generate(prompts, use_cache=True, **wish)
    assert torch.equal(written, peer.generate(prompts, use_cache=False, **wish))
    likely = logits(model, written)
    likely[..., 1] = -torch.inf  # the end of the document, which would be too soon
    assert torch.equal(written[:, 6:], likely.argmax(-1)[:, 5:-1])


def test_a_padded_prompt_is_continued_as_it_is_alone(tmp_path: Path) -> None:
    peer, prompt = peer_of(save(tmp_path, gated()), tmp_path / "stock"), some_tokens(1, 6)
    wish = {"do_sample": False, "min_new_tokens": 10, "max_new_tokens": 10}
    alone = peer.generate(prompt, attention_mask=torch.ones_like(prompt), **wish)
    both = torch.cat([torch.cat([torch.full((1, 3), 2), prompt], dim=1), some_tokens(1, 9)])
    padded = peer.generate(both, attention_mask=(both != 2).long(), **wish)
    assert torch.equal(padded[0, 3:], alone[0])


def test_only_what_qwen3_next_wants_otherwise_changes(tmp_path: Path) -> None:
    model = gated()
    peer = peer_of(save(tmp_path, model), tmp_path / "stock")
    ours, theirs = model.layers[1].attention, peer.model.layers[1].self_attn
    query_and_gate = theirs.q_proj.weight.unflatten(0, (4, 16))
    assert torch.equal(query_and_gate[:, :8].flatten(0, 1), ours.query.weight)
    for row in range(8, 16):
        assert torch.equal(query_and_gate[:, row], ours.gate.weight)
    assert torch.equal(theirs.o_proj.weight, 2 * ours.output.weight)
    assert torch.equal(theirs.k_norm.weight, ours.key_norm.weight - 1)
    assert torch.equal(theirs.k_proj.weight, ours.key.weight)
    assert torch.equal(peer.model.layers[1].mlp.gate_proj.weight, model.layers[1].feed_forward.gate.weight)


def test_room_is_asked_for_the_larger_projections_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot, asked = save(tmp_path, gated()), []
    monkeypatch.setattr(
        "dreamlm.checkpoints.convert.placing.require_free", lambda files, path, size, elsewhere: asked.append(size)
    )
    exported = export(snapshot, tmp_path / "stock")
    assert (snapshot / "model.safetensors").stat().st_size < asked[0] <= exported.size_bytes


def test_a_gate_without_qk_norm_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UserMistake, match="Qwen3Next can express this model's attention_gate without qk_norm"
    ) as caught:
        export(save(tmp_path, gated(qk_norm=False)), tmp_path / "stock")
    assert caught.value.hint == "a snapshot folder itself is complete: load it with dreamlm"
    assert not (tmp_path / "stock").exists()


def test_gated_weights_that_would_be_rounded_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserMistake, match="attention_gate in BF16: norm weights less 1 would be rounded"):
        export(save(tmp_path, gated().bfloat16()), tmp_path / "stock")
    assert not (tmp_path / "stock").exists()


def test_a_gate_that_the_configuration_does_not_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserMistake, match=r"has a place for the tensors layers\.0\.attention\.gate\.weight"):
        export(save(tmp_path, gated(), attention_gate=False), tmp_path / "stock")


def taken_over(folder: Path) -> DreamLM:
    config = read_decoder(folder)
    model = config.build(258).eval()
    told = model.load_state_dict(read_weights(folder, config), strict=False)
    assert told.missing_keys == ["head.weight"] * config.tie_embeddings
    assert not told.unexpected_keys
    return model


@pytest.mark.parametrize("scaling", [None, LINEAR, YARN], ids=["plain", "linear", "yarn"])
@pytest.mark.parametrize(("tied", "kv_heads"), [(False, 2), (True, None)])
def test_an_exported_gate_is_taken_over_again_bit_by_bit(
    tmp_path: Path, tied: bool, kv_heads: int | None, scaling: dict[str, Any] | None
) -> None:
    model = gated(scaling, tie_embeddings=tied, num_kv_heads=kv_heads, head_dim=None if tied else 12)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("norm.weight"):
                weight.clamp_(min=0.5)
    export(save(tmp_path, model), tmp_path / "stock")
    back, tokens = taken_over(tmp_path / "stock"), some_tokens(2, 64)
    for name, weight in back.named_parameters():
        assert torch.equal(weight, model.get_parameter(name)), name
    assert back.config.kv_heads == model.config.kv_heads
    assert back.config.positions == model.config.positions
    assert torch.equal(logits(back, tokens), logits(model, tokens))


def test_what_transformers_saves_of_an_exported_gate_has_its_logits_here(tmp_path: Path) -> None:
    """Norm weights of any size too: what less 1 rounded away is missing there as well."""
    peer, tokens = peer_of(save(tmp_path, gated()), tmp_path / "stock"), some_tokens(2, 64)
    peer.save_pretrained(tmp_path / "again", max_shard_size="20KB")
    assert len(list((tmp_path / "again").glob("*.safetensors"))) > 1
    with torch.no_grad():
        expected = peer(tokens).logits
    assert (logits(taken_over(tmp_path / "again"), tokens) - expected).abs().max() < 1e-5 * expected.abs().max()


def changed_weights(folder: Path, name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    weights = load_file(folder / "model.safetensors")
    weights[name] = change(weights[name])
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def test_gates_within_a_head_and_projections_without_them_are_refused_by_name(tmp_path: Path) -> None:
    export(save(tmp_path, gated()), tmp_path / "stock")
    config, name = read_decoder(tmp_path / "stock"), "model.layers.1.self_attn.q_proj.weight"
    changed_weights(tmp_path / "stock", name, lambda weight: weight + 1e-3 * torch.arange(len(weight))[:, None])
    with pytest.raises(UserMistake, match=r"one gate, these have .*: layers\.1\.attention\.query\.weight\n"):
        read_weights(tmp_path / "stock", config)
    changed_weights(tmp_path / "stock", name, lambda weight: weight[:-4].contiguous())
    with pytest.raises(CheckpointError, match=r"layers\.1\.attention\.query\.weight has 60 rows"):
        read_weights(tmp_path / "stock", config)


@pytest.mark.parametrize(
    ("settings", "feature"),
    [
        ({"layer_types": ["full_attention", "linear_attention"]}, "layer_types linear_attention"),
        ({"num_experts": 4, "mlp_only_layers": [1]}, "num_experts 4"),
        (
            {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.25}},
            "default partial_rotary_factor 0.25",
        ),
    ],
)
def test_what_else_a_qwen3_next_has_is_refused_by_name(tmp_path: Path, settings: dict[str, Any], feature: str) -> None:
    export(save(tmp_path, gated()), tmp_path / "stock")
    file = tmp_path / "stock" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    with pytest.raises(UserMistake, match=f"cannot express this model's {feature}"):
        read_decoder(tmp_path / "stock")
