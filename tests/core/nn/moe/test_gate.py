"""The gate chooses what the formula says, and its balance loss pulls on the right weights."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from dreamlm.core.nn.moe.gate import NoisyTopKGate

WIDTH = 8


def gate(num_experts: int = 6, top_k: int = 2, noise_std: float = 0.1) -> NoisyTopKGate:
    torch.manual_seed(0)
    built = NoisyTopKGate(WIDTH, num_experts, top_k, noise_std)
    for parameter in built.parameters():
        torch.nn.init.normal_(parameter)
    return built


def items(number: int = 50, seed: int = 1) -> torch.Tensor:
    return torch.randn(number, WIDTH, generator=torch.Generator().manual_seed(seed))


def all_real(number: int = 50) -> torch.Tensor:
    return torch.ones(number, dtype=torch.bool)


@given(st.data())
@settings(max_examples=40)
def test_routing_is_the_formula_written_item_by_item(data: st.DataObject) -> None:
    num_experts = data.draw(st.integers(1, 7))
    top_k = data.draw(st.integers(1, num_experts))
    real = data.draw(st.lists(st.booleans(), min_size=1, max_size=20))
    one = gate(num_experts, top_k).eval()
    values = items(len(real), data.draw(st.integers(0, 1000)))
    routing = one(values, torch.tensor(real))
    chosen_by, importance = torch.zeros(num_experts), torch.zeros(num_experts)
    for number in range(len(real)):
        logits = one.clean.weight @ values[number]
        probabilities = logits.exp() / logits.exp().sum()
        best = sorted(range(num_experts), key=lambda expert: -logits[expert])[:top_k]
        mixture = probabilities[best] / (probabilities[best].sum() if top_k > 1 else 1)
        torch.testing.assert_close(routing.weight_NK[number], mixture)
        assert routing.expert_NK[number].tolist() == (best if real[number] else [num_experts] * top_k)
        if real[number]:
            chosen_by[best] += 1
            importance += probabilities / sum(real)
    share = chosen_by / max(1, sum(real) * top_k)
    assert routing.count_E.tolist() == chosen_by.tolist()
    torch.testing.assert_close(routing.usage_E, share)
    torch.testing.assert_close(routing.balance, num_experts * (importance * share).sum())
    assert routing.usage_E.sum().item() == pytest.approx(float(any(real)))


def test_noise_is_as_loud_as_the_item_asks_for_and_only_in_training() -> None:
    one = gate(noise_std=0.5)
    values, logits = items(20_000, seed=2)[:1].expand(20_000, WIDTH), torch.zeros(20_000, 6)
    noise = one.noise(values, logits)
    loudness = 0.5 * F.softplus(one.noise.loudness.weight @ values[0])
    torch.testing.assert_close(noise.std(dim=0), loudness, rtol=0.03, atol=0.0)
    torch.testing.assert_close(noise.mean(dim=0) / loudness, torch.zeros(6), rtol=0.0, atol=0.03)
    one.eval()
    assert torch.equal(one.noise(values, logits), logits)


def test_the_same_seed_draws_the_same_noise_and_no_noise_has_no_weights() -> None:
    one = gate()
    routings = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        routings.append(one(items(), all_real()).weight_NK)
    assert torch.equal(routings[0], routings[1])
    assert not torch.equal(routings[0], routings[2])
    assert [name for name, _ in gate(noise_std=0.0).named_parameters()] == ["clean.weight"]


def test_the_balance_alone_spreads_a_crowded_gate() -> None:
    one = gate(noise_std=0.0)
    values = items().abs()
    with torch.no_grad():
        one.clean.weight[0] += 1.0
    crowded = one(values, all_real())
    optimizer = torch.optim.SGD(one.parameters(), lr=1.0)
    for _ in range(100):
        optimizer.zero_grad()
        one(values, all_real()).balance.backward()
        optimizer.step()
    spread = one(values, all_real())
    assert crowded.usage_E[0] > 0.4
    assert crowded.balance > 1.5
    assert spread.usage_E.max() < 0.25
    assert spread.balance < 1.05


@pytest.mark.parametrize("top_k", [1, 2])
def test_the_mixture_weights_teach_every_weight_of_the_gate(top_k: int) -> None:
    one = gate(top_k=top_k)
    one(items(), all_real()).weight_NK.square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in one.parameters())


def test_autocast_does_not_reach_the_gate() -> None:
    one = gate().eval()
    exact = one(items(), all_real())
    with torch.autocast("cpu", torch.bfloat16):
        routing = one(items(), all_real())
    assert routing.weight_NK.dtype == routing.balance.dtype == torch.float32
    assert torch.equal(routing.weight_NK, exact.weight_NK)
    assert torch.equal(routing.balance, exact.balance)
