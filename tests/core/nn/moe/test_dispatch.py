"""Only the chosen experts compute, and the result is that of all experts weighted by the gate."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dreamlm.core.nn.moe.dispatch import ROWS, Experts, dispatch
from dreamlm.core.nn.moe.dispatch import mixed as weighted
from dreamlm.core.nn.moe.gate import NoisyTopKGate, Routing


def routed(experts: Tensor, num_experts: int, weights: Tensor | None = None) -> Routing:
    """A routing by hand; an expert numbered `num_experts` is none."""
    if weights is None:
        weights = torch.rand(experts.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    counts = torch.bincount(experts.flatten(), minlength=num_experts + 1)[:num_experts]
    return Routing(experts, weights, counts, torch.zeros(()))


def all_experts(items: Tensor, routing: Routing, experts: Experts) -> Tensor:
    """Every expert computes every item; what was not chosen has weight 0."""
    mixed = 0.0
    for number, expert in enumerate(experts):
        weights = (routing.weight_NK * (routing.expert_NK == number)).sum(dim=1)
        mixed = mixed + expert(items) * weights.view(-1, *[1] * (items.ndim - 1))
    return mixed


def bilinear(width: int = 5) -> nn.Module:
    return nn.Sequential(nn.Linear(width, 7), nn.Tanh(), nn.Linear(7, 3)).double()


@given(st.data())
@settings(max_examples=40)
def test_values_and_gradients_are_those_of_all_experts_weighted(data: st.DataObject) -> None:
    num_experts, number = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 40))
    top_k = data.draw(st.integers(1, num_experts))
    torch.manual_seed(data.draw(st.integers(0, 1000)))
    chosen = torch.rand(number, num_experts).argsort(dim=1)[:, :top_k]
    chosen[torch.rand(number) < data.draw(st.sampled_from([0.0, 0.3, 1.0]))] = num_experts
    experts = Experts((bilinear() for _ in range(num_experts)), top_k)
    results = []
    for compute in (experts, lambda items, routing: all_experts(items, routing, experts)):
        items = torch.randn(number, 5, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
        items.requires_grad_()
        routing = routed(chosen, num_experts)
        routing.weight_NK.requires_grad_()
        experts.zero_grad()
        mixed = compute(items, routing)
        (mixed * torch.arange(3)).square().sum().backward()
        gradients = [parameter.grad for parameter in experts.parameters()]
        results.append([mixed, items.grad, routing.weight_NK.grad, *gradients])
    for sparse, dense in zip(*results, strict=True):
        torch.testing.assert_close(sparse, dense)


def test_an_expert_sees_only_the_items_that_chose_it() -> None:
    seen: list[Tensor] = []

    def expert(items: Tensor) -> Tensor:
        seen.append(items)
        return items

    items = torch.arange(1.0, 12.0)[:, None]
    chosen = torch.tensor([[0]] * 9 + [[2]] * 2)
    dispatch(items, routed(chosen, 3, torch.ones(11, 1)), [expert, expert, expert])
    assert [len(one) for one in seen] == [2 * ROWS, 0, ROWS]
    assert [one[one > 0].tolist() for one in seen] == [list(range(1, 10)), [], [10, 11]]


def test_results_by_choice_are_in_the_order_of_the_choices_and_unmixed() -> None:
    class Scaled(nn.Module):
        def __init__(self, factor: float) -> None:
            super().__init__()
            self.factor = factor

        def forward(self, items: Tensor, shift: float) -> Tensor:
            return items * self.factor + shift

    experts = Experts((Scaled(factor) for factor in (1.0, 10.0, 100.0)), top_k=2)
    items = torch.tensor([[1.0], [2.0], [3.0]])
    routing = routed(torch.tensor([[2, 0], [1, 2], [3, 3]]), 3)
    found = experts.by_choice(items, routing, shift=0.5)
    assert found[:, :, 0].tolist() == [[100.5, 1.5], [20.5, 200.5], [0.0, 0.0]]
    torch.testing.assert_close(weighted(found, routing), (found * routing.weight_NK[:, :, None]).sum(dim=1).float())


def test_experts_may_be_of_any_kind() -> None:
    """Here each maps a whole sequence to a summary of it."""
    torch.manual_seed(0)

    class Summary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cells = nn.GRU(4, 6, batch_first=True)

        def forward(self, sequences: Tensor) -> Tensor:
            return self.cells(sequences)[1][0]

    experts = Experts((Summary() for _ in range(3)), top_k=2)
    items = torch.randn(10, 5, 4)
    chosen = torch.rand(10, 3).argsort(dim=1)[:, :2]
    mixed = experts(items, routed(chosen, 3, torch.full((10, 2), 0.5)))
    for number, pair in enumerate(chosen):
        one = items[number : number + 1]
        torch.testing.assert_close(mixed[number], sum(experts[expert](one)[0] for expert in pair) / 2)


def of_linear_maps(num_experts: int, top_k: int) -> tuple[NoisyTopKGate, Experts]:
    torch.manual_seed(0)
    gate = NoisyTopKGate(32, num_experts, top_k, noise_std=0.1).eval()
    for parameter in gate.parameters():
        nn.init.normal_(parameter)
    experts = Experts((nn.Linear(32, 32, bias=False) for _ in range(num_experts)), top_k)
    return gate, experts


def test_the_work_is_two_eighths_of_that_of_all_experts() -> None:
    gate, experts = of_linear_maps(8, 2)
    items = torch.randn(1024, 32, requires_grad=True)
    routing = gate(items, torch.ones(1024, dtype=torch.bool))
    work = []
    for compute in (experts, lambda items, routing: all_experts(items, routing, experts)):
        with FlopCounterMode(display=False) as counter:
            compute(items, routing).sum().backward(retain_graph=True)
        work.append(counter.get_total_flops())
    assert work[0] / work[1] == pytest.approx(2 / 8, rel=0.1)


@pytest.mark.parametrize(
    ("times", "rows"), [(1, [8, 8, 8, 0]), (2, [8, 8, 8, 0]), (3, [16, 8, 8, 0]), (256, [1024, 512, 512, 0])]
)
def test_experts_compute_their_items_rounded_up(times: int, rows: list[int]) -> None:
    """Each of four items chooses two of four experts: more work than all experts of four items, half that of 1,024."""
    computed = [0] * 4

    def counting(expert: int) -> Callable[[Tensor], Tensor]:
        def compute(items: Tensor) -> Tensor:
            computed[expert] += len(items)
            return items

        return compute

    chosen = torch.tensor([[0, 1], [0, 2], [1, 0], [2, 0]] * times)
    dispatch(torch.ones(len(chosen), 3), routed(chosen, 4), [counting(expert) for expert in range(4)])
    assert computed == rows
    assert computed == [math.ceil(count / ROWS) * ROWS for count in chosen.flatten().bincount(minlength=4).tolist()]


def test_items_are_bit_identical_whatever_the_later_ones_choose() -> None:
    """A product of three rows rounds differently from one of thirty, so this fails without filled-up stretches."""
    gate, experts = of_linear_maps(8, 2)
    real = torch.ones(24, dtype=torch.bool)
    for seed in range(20):
        items = torch.randn(24, 32, generator=torch.Generator().manual_seed(seed))
        changed = items.clone()
        changed[12:] = torch.randn(12, 32, generator=torch.Generator().manual_seed(seed + 100))
        before, after = (experts(one, gate(one, real)) for one in (items, changed))
        assert torch.equal(before[:12], after[:12])


def test_an_idle_expert_still_gets_a_gradient_of_zeros() -> None:
    """All ranks of a divided model must reduce the same weights, whatever their tokens chose."""
    _, experts = of_linear_maps(3, 1)
    chosen = torch.zeros(4, 1, dtype=torch.int64)
    experts(torch.randn(4, 32), routed(chosen, 3, torch.ones(4, 1))).sum().backward()
    assert [expert.weight.grad.abs().sum() > 0 for expert in experts] == [True, False, False]


def test_idle_weights_are_those_of_the_experts_that_are_not_chosen() -> None:
    assert of_linear_maps(8, 2)[1].idle_weights == 6 * 32 * 32
