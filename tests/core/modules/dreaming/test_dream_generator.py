"""Only the chosen experts dream, they hear one another, and what comes out is what loops over all of them give."""

import pytest
import torch
from naive_dreams import dreamt
from pydantic import ValidationError
from small_dreams import dreaming, roles_of
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from dreamlm.core.modules.dreaming.dreaming import Dreaming


def grown(module: Dreaming, roles: Tensor, real: Tensor, dreams: int = 2, length: int = 3) -> Tensor:
    return module.generator(roles, real, dreams, length).steps_RNL3C


@pytest.mark.parametrize("exchange", [True, False])
@pytest.mark.parametrize(("top_k", "layers", "dreams", "length"), [(2, 1, 3, 3), (1, 2, 2, 4), (4, 1, 1, 1)])
def test_dreams_are_those_of_loops_over_experts(
    exchange: bool, top_k: int, layers: int, dreams: int, length: int
) -> None:
    module = dreaming(use_cross_expert_attention=exchange, moe_top_k=top_k, expert_num_layers=layers)
    roles, real = roles_of(4)
    with torch.no_grad():
        found = module.generator(roles, real, dreams, length)
        for row in range(4):
            steps, gate = dreamt(module.generator, roles[row], dreams, length)
            torch.testing.assert_close(found.steps_RNL3C[row], steps, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(found.gate_RNE[row], gate)


def test_only_the_chosen_experts_compute() -> None:
    roles, real = roles_of(256)
    work = []
    for top_k in (1, 2, 4):
        module = dreaming(use_cross_expert_attention=False, moe_top_k=top_k, expert_num_layers=2)
        with FlopCounterMode(display=False) as counter:
            grown(module, roles, real).sum().backward()
        work.append(counter.get_total_flops())
    assert work[0] / work[2] == pytest.approx(1 / 4, rel=0.05)
    assert work[1] / work[2] == pytest.approx(2 / 4, rel=0.05)


@pytest.mark.parametrize(
    ("num_experts", "top_k", "expected"),
    [(4, 2, [[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5], [0.5, 0.5, 0, 0]]), (3, 1, [[1, 0, 0], [0, 1, 0], [0, 0, 1]])],
)
def test_without_a_gate_dreams_take_turns_whatever_they_are_about(
    num_experts: int, top_k: int, expected: list[list[float]]
) -> None:
    module = dreaming(num_dream_sequences=3, num_experts=num_experts, moe_top_k=top_k, use_gate=False)
    assert not any("gate" in name for name, _ in module.generator.named_parameters())
    roles, real = roles_of(4)[0], torch.tensor([True, True, False, True])
    found = module.generator(roles, real, 3, 2)
    gate = torch.tensor(expected) * real[:, None, None]
    assert torch.equal(found.gate_RNE, gate)
    assert found.routing.count_E.tolist() == (gate > 0).sum(dim=(0, 1)).tolist()
    found.steps_RNL3C.square().sum().backward()
    for expert in module.generator.experts:
        assert all(one.grad is not None and one.grad.abs().sum() > 0 for one in expert.parameters())


def test_experts_that_would_never_have_a_turn_are_refused() -> None:
    with pytest.raises(ValidationError, match="2 dreams of moe_top_k 1 experts each have 2 of num_experts 4"):
        dreaming(moe_top_k=1, use_gate=False)


def test_dreams_of_a_segment_differ() -> None:
    found = grown(dreaming(), *roles_of(3), dreams=4)
    for first in range(4):
        for second in range(first):
            assert (found[:, first] - found[:, second]).abs().amax(dim=(1, 2, 3)).min() > 0.1


def test_a_longer_dream_begins_as_the_shorter_one() -> None:
    module, (roles, real) = dreaming(), roles_of(3)
    short, long = (grown(module, roles, real, length=length) for length in (3, 5))
    torch.testing.assert_close(long[:, :, :3], short, atol=1e-5, rtol=1e-5)
    assert (long[:, :, 3] - long[:, :, 4]).abs().max() > 0.1


def test_a_row_without_tokens_is_dreamt_by_nobody_and_counts_nowhere() -> None:
    module, (roles, _) = dreaming(), roles_of(3)
    some = module.generator(roles, torch.tensor([True, False, True]), 2, 3)
    alone = module.generator(roles[[0, 2]], torch.ones(2, dtype=torch.bool), 2, 3)
    assert some.gate_RNE[1].abs().max() == 0
    assert some.routing.count_E.tolist() == alone.routing.count_E.tolist()
    torch.testing.assert_close(some.routing.balance, alone.routing.balance)
    torch.testing.assert_close(some.steps_RNL3C[[0, 2]], alone.steps_RNL3C, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("dreams", "top_k"), [(1, 2), (2, 1), (3, 2)])
def test_every_weight_between_experts_learns_when_there_are_two_outputs(dreams: int, top_k: int) -> None:
    module, (roles, real) = dreaming(moe_top_k=top_k), roles_of(4)
    grown(module, roles, real, dreams).square().sum().backward()
    for name, parameter in module.generator.exchange.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_experts_of_a_row_hear_one_another_and_no_other_row() -> None:
    module, (roles, real) = dreaming(moe_top_k=1), roles_of(3)
    before = module.generator(roles, real, 3, 3)
    with torch.no_grad():
        module.generator.offset[0] *= 1 + 0.01 * torch.randn(48)  # so little that the gate chooses the same experts
    after = module.generator(roles, real, 3, 3)
    assert torch.equal(after.routing.expert_NK, before.routing.expert_NK)
    heard = (after.steps_RNL3C - before.steps_RNL3C)[:, 1:].abs().amax(dim=(1, 2, 3, 4))
    assert heard.min() > 1e-4
    moved = roles.clone()
    moved[0] += 1.0
    others = module.generator(moved, real, 3, 3).steps_RNL3C[1:]
    torch.testing.assert_close(others, after.steps_RNL3C[1:], atol=1e-5, rtol=1e-5)


def test_an_expert_that_nobody_chose_gets_a_gradient_of_zeros() -> None:
    """All ranks of a divided model must reduce the same weights, whatever their dreams chose."""
    module, (roles, real) = dreaming(num_experts=4, moe_top_k=1), roles_of(1)
    grown(module, roles, real, dreams=1).sum().backward()
    reached = [sum(float(one.grad.abs().sum()) for one in expert.parameters()) for expert in module.generator.experts]
    assert sorted(total > 0 for total in reached) == [False, False, False, True]


def test_the_balance_has_gradient() -> None:
    module, (roles, real) = dreaming(), roles_of(8)
    module.generator(roles, real, 2, 3).routing.balance.backward()
    assert module.generator.gate.clean.weight.grad.abs().sum() > 0
