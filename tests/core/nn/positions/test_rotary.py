"""Rotary positions: distances alone matter, and each layer has the rule that the configuration gives it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.nn.positions.rotary import Rotary

YARN = {"type": "yarn", "factor": 4, "original_length": 64}


def rotary(num_layers: int = 4, **scaling: object) -> Rotary:
    config = Rotary.Config.model_validate({"scaling": scaling} if scaling else {})
    return config.build(64, 2, 32, num_layers, 64)


@settings(max_examples=30)
@given(first=st.integers(0, 2000), second=st.integers(0, 2000), shift=st.integers(0, 2000), scaled=st.booleans())
def test_an_inner_product_knows_the_distance_alone(first: int, second: int, shift: int, scaled: bool) -> None:
    positions = rotary(**(YARN if scaled else {}))
    query, key = torch.randn(2, 1, 1, 1, 32, generator=torch.Generator().manual_seed(0)).double()

    def product(at: int, other: int) -> float:
        placed_query = positions.place(torch.tensor([[at]]), torch.float64).query(query, 0)
        return float((placed_query * positions.place(torch.tensor([[other]]), torch.float64).key(key, 0)).sum())

    # Angles are in fp32: 4,000 radians are known to 2e-4.
    assert product(first, second) == pytest.approx(product(first + shift, second + shift), abs=1e-2)


def test_positions_far_off_are_as_exact_in_bf16_as_near_ones() -> None:
    """Angles are in fp32; one of 4,001 radians rounded to bf16 would be off by up to 8."""
    heads = torch.randn(1, 2, 1, 32, generator=torch.Generator().manual_seed(0)).bfloat16()
    for position in (3, 4001):
        place = torch.tensor([[position]])
        rough, exact = (
            rotary().place(place, dtype).query(heads.to(dtype), 0) for dtype in (torch.bfloat16, torch.float32)
        )
        torch.testing.assert_close(rough.float(), exact, rtol=0, atol=0.03)


@pytest.mark.parametrize(
    ("layers", "scaled"),
    [("all", {0, 1, 2, 3, 4}), ("lower_half", {0, 1, 2}), ("upper_half", {2, 3, 4}), ([3], {3}), ([], set())],
)
def test_chosen_layers_see_rescaled_positions_and_the_others_plain_ones(layers: object, scaled: set) -> None:
    place = torch.arange(200)[None]
    plain, everywhere = (one.place(place, torch.float32) for one in (rotary(5), rotary(5, **YARN)))
    mixed = rotary(5, **YARN, layers=layers).place(place, torch.float32)
    heads = torch.randn(1, 2, 200, 32)
    for layer in range(5):
        source = everywhere if layer in scaled else plain
        assert torch.equal(mixed.query(heads, layer), source.query(heads, layer))
        assert torch.equal(mixed.key(heads, layer), source.key(heads, layer))
    assert not torch.equal(plain.query(heads, 0), everywhere.query(heads, 0))


def test_elsewhere_the_first_rule_that_names_a_layer_holds() -> None:
    linear = {"type": "linear", "factor": 2.0}
    elsewhere = [{**linear, "layers": [0, 1]}, {**linear, "factor": 3.0, "layers": "lower_half"}]
    config = Rotary.Config.model_validate({"scaling": {**YARN, "layers": [1, 4]}, "scaling_elsewhere": elsewhere})
    place = torch.arange(200)[None]
    mixed, heads = config.build(64, 2, 32, 5, 64).place(place, torch.float32), torch.randn(1, 2, 200, 32)
    for layer, rule in enumerate((linear, YARN, {**linear, "factor": 3.0}, {}, YARN)):
        alone = rotary(5, **rule).place(place, torch.float32)
        assert torch.equal(mixed.query(heads, layer), alone.query(heads, layer))
        assert torch.equal(mixed.key(heads, layer), alone.key(heads, layer))


def test_a_layer_that_does_not_exist_is_refused_before_anything_is_built() -> None:
    wrong = {**YARN, "layers": [0, 2]}
    for positions in ({"scaling": wrong}, {"scaling": {**YARN, "layers": [0]}, "scaling_elsewhere": [wrong]}):
        with pytest.raises(ValueError, match="layer 2: the layers are 0 to 1"):
            DreamLM.Config.model_validate({"num_layers": 2, "positions": positions})


def test_rules_for_layers_left_out_need_a_scaling_that_leaves_some_out() -> None:
    with pytest.raises(ValueError, match="for the layers that a scaling leaves out, and scaling is none"):
        Rotary.Config.model_validate({"scaling_elsewhere": [YARN]})


@pytest.mark.parametrize("scaling", [YARN, {**YARN, "beta_fast": 4.0}, {"type": "linear", "factor": 4}])
def test_logits_equal_those_of_a_scaled_llama(scaling: dict) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = DreamLM.Config(
        hidden_size=32,
        num_layers=2,
        num_heads=2,
        seq_length=256,
        qk_norm=False,
        positions=Rotary.Config.model_validate({"theta": 500.0, "scaling": scaling}),
    )
    model = config.build(97)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    rule = {"rope_type": scaling["type"], "factor": float(scaling["factor"]), "rope_theta": 500.0}
    if scaling["type"] == "yarn":
        rule |= {"original_max_position_embeddings": 64, "beta_fast": scaling.get("beta_fast", 32.0)}
    peer = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=97,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=config.feed_forward_size,
            max_position_embeddings=256,
            rms_norm_eps=1e-5,
            rope_parameters=rule,
            tie_word_embeddings=True,
        )
    )
    renamed = {
        "embedding": "model.embed_tokens",
        "norm": "model.norm",
        "layers": "model.layers",
        "attention_norm": "input_layernorm",
        "feed_forward_norm": "post_attention_layernorm",
        "attention": "self_attn",
        "feed_forward": "mlp",
        **{name: f"{name[0]}_proj" for name in ("query", "key", "value", "output")},
        **{name: f"{name}_proj" for name in ("gate", "up", "down")},
        "head": "lm_head",
    }
    peer.load_state_dict(
        {".".join(renamed.get(part, part) for part in name.split(".")): w for name, w in model.state_dict().items()}
    )
    ids = torch.randint(0, 97, (2, 200), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours = model.logits(model(ids, torch.zeros_like(ids), model.start(2), boundaries=False).hidden)
        torch.testing.assert_close(ours, peer(ids).logits, atol=1e-5, rtol=1e-5)
