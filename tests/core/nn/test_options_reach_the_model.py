"""Every option of the decoder reaches what it is about, with its value: the model computes what the options say."""

import math
from typing import Any

import pytest
import torch
from naive_decoder import naive_logits
from torch import Tensor, nn
from torch.nn import functional as F

from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.nn.norm import LayerNorm, RMSNorm
from dreamlm.core.objectives.causal import CausalObjective

VOCAB, LENGTH = 37, 9
SIZES: dict[str, Any] = {"hidden_size": 24, "num_layers": 2, "num_heads": 4, "seq_length": LENGTH}
OPTIONS: dict[str, Any] = {
    **SIZES,
    **{"num_kv_heads": 2, "positions": {"type": "rope", "theta": 50.0}, "attention_activation": "softmax"},
    **{"attention_gate": False, "feed_forward": "swiglu", "norm": "rmsnorm", "norm_epsilon": 0.2, "qk_norm": True},
}
"""What the naive decoder asks for; none of the numbers is a default."""


def build(**options: Any) -> DreamLM:
    torch.manual_seed(0)
    model = DreamLM.Config.model_validate({**SIZES, **options}).build(VOCAB)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.4)
    return model


def tokens(rows: int = 2, length: int = LENGTH) -> Tensor:
    return torch.randint(0, VOCAB, (rows, length), generator=torch.Generator().manual_seed(1))


def hidden(model: DreamLM, ids: Tensor) -> Tensor:
    vectors: Tensor = model(ids, torch.zeros_like(ids), model.start(len(ids))).hidden
    return vectors


@pytest.mark.parametrize(
    "option",
    [
        {},
        {"num_kv_heads": 1},
        {"num_kv_heads": 4},
        {"head_dim": 10},
        {"head_dim": 2, "attention_gate": True, "positions": "alibi"},
        {"head_dim": 10, "attention_activation": "sparsemax", "positions": "alibi"},
        {"positions": "alibi"},
        {"positions": "learned"},
        {"positions": "none"},
        {"attention_activation": "sparsemax"},
        {"attention_gate": True},
        {"feed_forward": "gelu", "intermediate_size": 40},
        {"feed_forward": "learnable"},
        {"feed_forward": "relu2"},
        {"feed_forward": {"type": "moe", "num_experts": 5, "top_k": 1}},
        {"feed_forward": {"type": "moe", "num_experts": 3, "top_k": 2, "expert_size": 12}},
        {"norm": "layernorm"},
        {"norm": "layernorm", "qk_norm": False},
        {"qk_norm": False},
        {"tie_embeddings": False},
        {"logit_soft_cap": 0.5},
    ],
    ids=str,
)
@torch.no_grad()
def test_logits_are_those_of_the_options_in_plain_words(option: dict[str, Any]) -> None:
    options = {**OPTIONS, **option}
    model, ids = build(**options).eval(), tokens()
    found = model.logits(hidden(model, ids))
    expected = torch.stack([naive_logits(options, model.state_dict(), row) for row in ids])
    torch.testing.assert_close(found, expected.float(), atol=1e-4, rtol=1e-4)


def test_inside_a_layer_is_as_wide_as_was_asked_for() -> None:
    dense = build(feed_forward="gelu", intermediate_size=40).layers[1].feed_forward
    assert (dense.up.weight.shape, dense.down.weight.shape) == ((40, 24), (24, 40))
    experts = {"type": "moe", "num_experts": 3}
    for size, given in ((12, {**experts, "expert_size": 12}), (32, {**experts, "top_k": 2})):
        sparse = build(feed_forward=given, intermediate_size=64).layers[1].feed_forward
        assert [one.up.weight.shape for one in sparse.experts] == [(size, 24)] * 3


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@torch.no_grad()
def test_the_loss_knows_the_cap_and_the_smoothing(smoothing: float) -> None:
    model, window = build(logit_soft_cap=1.5).eval(), tokens(2, LENGTH + 1)
    losses = CausalObjective(model, smoothing)(window, torch.zeros_like(window), False)
    logits = 1.5 * torch.tanh(hidden(model, window[:, :-1]) @ model.embedding.weight.T / 1.5)
    target = window[:, 1:].flatten()
    for found, share in ((losses.objectives["token"], smoothing), (losses.nll, 0.0)):
        expected = F.cross_entropy(logits.flatten(0, 1), target, reduction="sum", label_smoothing=share)
        torch.testing.assert_close(found, expected)


def test_every_norm_has_the_epsilon_and_the_kind_that_were_asked_for() -> None:
    for kind, name in ((RMSNorm, "rmsnorm"), (LayerNorm, "layernorm")):
        model = build(norm=name, norm_epsilon=0.25)
        norms = [part for part in model.modules() if isinstance(part, RMSNorm | LayerNorm)]
        assert [(type(norm), norm.epsilon) for norm in norms] == [(kind, 0.25)] * (4 * 2 + 1)


MODULES = ["dreaming", "segment_summary", "thought_stack"]


@pytest.mark.parametrize("module", MODULES)
def test_modules_have_the_epsilon_of_the_decoder(module: str) -> None:
    model = build(norm_epsilon=0.25, seq_length=16, segment_length=8, modules=[module])
    found = {part.epsilon for part in model.cognition.modules() if hasattr(part, "epsilon")}
    assert found == {0.25}


@pytest.mark.parametrize(("after", "place"), [(None, 1), (0, 0), (2, 2), (3, 3)])
def test_a_module_sits_behind_the_layer_it_was_given(after: int | None, place: int) -> None:
    module = {"type": "segment_summary", "after": after}
    model = build(num_layers=4, seq_length=16, segment_length=8, modules=[module])
    passed: list[str] = []
    for part in (*model.layers, *model.cognition):
        part.register_forward_hook(lambda part, given, signal: passed.append(part.name))
    hidden(model, tokens(1, 8))
    expected = [f"layers.{index}" for index in range(4)]
    assert passed == [*expected[: place + 1], "segment_summary", *expected[place + 1 :]]


def test_the_gates_of_experts_are_as_noisy_as_was_asked_for() -> None:
    model = build(feed_forward={"type": "moe", "num_experts": 4, "noise_std": 0.3})
    items, logits = torch.randn(50, 24), torch.randn(50, 4)
    for layer in model.train().layers:
        noise = layer.feed_forward.gate.noise
        torch.manual_seed(3)
        found = noise(items, logits)
        torch.manual_seed(3)
        loudness = torch.log1p(torch.exp(items @ noise.loudness.weight.T))
        torch.testing.assert_close(found, logits + torch.randn(50, 4) * loudness * 0.3)
        assert torch.equal(noise.eval()(items, logits), logits)


RATE = 0.25


@torch.no_grad()
def test_dropout_falls_on_the_embedding_and_on_both_branches_of_every_layer() -> None:
    """Each number is what the part gave, over the share that is kept, or nothing."""
    model, seen = build(dropout=RATE, hidden_size=64).train(), {}

    def watch(name: str, part: nn.Module) -> None:
        part.register_forward_hook(lambda part, given, made: seen.update({name: (given[0], made)}))

    for index, layer in enumerate(model.layers):
        for name, part in (("layer", layer), ("attention", layer.attention), ("feed_forward", layer.feed_forward)):
            watch(f"{name} {index}", part)
    ids = tokens(24)
    hidden(model, ids)
    _require_dropped(seen["layer 0"][0].hidden, [model.embedding(ids)])
    for index in range(2):
        before, after = seen[f"layer {index}"]
        branches = [seen[f"attention {index}"][1][0], seen[f"feed_forward {index}"][1].hidden]
        _require_dropped(after.hidden - before.hidden, branches)
    assert torch.equal(hidden(model.eval(), ids), hidden(model, ids))


def _require_dropped(found: Tensor, parts: list[Tensor]) -> None:
    """That it is the sum of the parts, each dropped by itself: every choice of them is as frequent as it is likely."""
    choices = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * len(parts)).view(-1, len(parts))
    sums = torch.stack(
        [sum(keep * part / (1 - RATE) for keep, part in zip(one, parts, strict=True)) for one in choices]
    )
    off = (found - sums).abs()
    assert off.amin(dim=0).max() < 1e-5
    share = F.one_hot(off.argmin(dim=0).flatten(), len(choices)).float().mean(dim=0)
    for choice, found_share in zip(choices, share, strict=True):
        likely = math.prod(1 - RATE if keep else RATE for keep in choice)
        assert found_share.item() == pytest.approx(likely, abs=0.02), choice
