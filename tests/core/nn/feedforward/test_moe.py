"""A mixture of experts as a feed-forward layer: what it costs, what it reports, and what padding does to it."""

from typing import Any

import pytest
import torch
from one_layer import LENGTH, ROWS, build, hidden, segment

from dreamlm.core.nn.feedforward.moe import MixtureOfExperts
from dreamlm.core.training.optim import Muon


def test_muon_gets_every_matrix_of_every_expert() -> None:
    named = [(f"layers.0.{name}", parameter) for name, parameter in build("moe").named_parameters()]
    embedding = ("embedding.weight", torch.nn.Parameter(torch.zeros(2, 2)))
    muon = Muon.Config().build([*named, embedding]).parts[0]
    taken = {parameter for group in muon.param_groups for parameter in group["params"]}
    assert taken == {parameter for _, parameter in named}


def test_a_token_costs_what_it_costs_in_a_dense_layer() -> None:
    dense, sparse = build("swiglu"), build({"type": "moe", "num_experts": 6, "top_k": 3})
    assert isinstance(sparse, MixtureOfExperts)
    weights = sum(parameter.numel() for parameter in sparse.experts.parameters())
    assert weights - sparse.experts.idle_weights == sum(parameter.numel() for parameter in dense.parameters())


@pytest.mark.parametrize("top_k", [1, 2])
def test_a_token_is_the_mixture_of_its_experts_and_each_of_them_a_swiglu(top_k: int) -> None:
    layer = build({"type": "moe", "num_experts": 3, "top_k": top_k}).eval()
    items = hidden().flatten(0, 1)
    routing = layer.gate(items, torch.ones(len(items), dtype=torch.bool))
    expected = torch.zeros_like(items)
    for number, item in enumerate(items):
        for chosen, weight in zip(routing.expert_NK[number], routing.weight_NK[number], strict=True):
            gate, up, down = (getattr(layer.experts[chosen], name).weight for name in ("gate", "up", "down"))
            inside = gate @ item
            expected[number] += weight * (down @ (inside / (1 + torch.exp(-inside)) * (up @ item)))
    torch.testing.assert_close(layer(hidden(), segment()).hidden, expected.view_as(hidden()))


def test_padding_is_computed_by_no_expert_and_counts_nowhere() -> None:
    layer = build("moe").eval()
    documents = torch.zeros(ROWS, LENGTH, dtype=torch.int32)
    documents[0, :5] = documents[2] = -1
    values = hidden()
    mapped = layer(values, segment(documents))
    values[documents < 0] = 1e6
    again = layer(values, segment(documents))
    assert torch.equal(mapped.hidden, again.hidden)
    assert torch.equal(mapped.losses["moe_balance"], again.losses["moe_balance"])
    assert torch.equal(mapped.probes["usage"], again.probes["usage"])
    assert not mapped.hidden[documents < 0].any()


def test_the_balance_loss_is_a_sum_over_real_tokens_and_a_mean_over_layers() -> None:
    documents = torch.zeros(ROWS, LENGTH, dtype=torch.int32)
    documents[0, :5] = -1
    layer = build("moe", num_layers=4).eval()
    mapped = layer(hidden(), segment(documents))
    routing = layer.gate(hidden().flatten(0, 1), documents.flatten() >= 0)
    torch.testing.assert_close(mapped.losses["moe_balance"], routing.balance * (ROWS * LENGTH - 5) / 4)
    assert mapped.probes["usage"].sum().item() == pytest.approx(1.0)


@pytest.mark.parametrize(
    "config", [{"num_experts": 2, "top_k": 1}, {"num_experts": 3, "top_k": 3}, {"expert_size": 1}, {"noise_std": 0.0}]
)
def test_degenerate_sizes_are_finite_and_learn(config: dict[str, Any]) -> None:
    layer = build({"type": "moe", **config})
    mapped = layer(hidden(), segment())
    (mapped.hidden.square().sum() + mapped.losses["moe_balance"]).backward()
    assert mapped.hidden.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in layer.parameters())
    assert all(parameter.grad.any() for parameter in layer.experts.parameters())


def test_a_segment_of_padding_alone_costs_nothing() -> None:
    layer = build("moe")
    mapped = layer(hidden(), segment(torch.full((ROWS, LENGTH), -1)))
    (mapped.hidden.sum() + mapped.losses["moe_balance"]).backward()
    assert mapped.losses["moe_balance"] == 0
    assert not mapped.probes["usage"].any()
    assert all(not parameter.grad.any() for parameter in layer.parameters())


def test_more_choices_than_experts_are_refused() -> None:
    with pytest.raises(ValueError, match="top_k 9 cannot exceed num_experts 8"):
        build({"type": "moe", "top_k": 9})
