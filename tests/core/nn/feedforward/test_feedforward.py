"""Every feed-forward layer maps each token by itself, and is the formula it is named after."""

import math

import pytest
import torch
from one_layer import LENGTH, build, hidden, segment
from torch.nn import functional as F

from dreamlm.core.nn.feedforward.learnable import ActivationMix
from dreamlm.core.training.optim import AdamW, Muon


@pytest.mark.parametrize("kind", ["gelu", "learnable", "moe", "relu2", "swiglu"])
def test_each_token_is_mapped_by_itself(kind: str) -> None:
    layer = build(kind).eval()
    whole = layer(hidden(), segment()).hidden
    order = torch.randperm(LENGTH)
    torch.testing.assert_close(layer(hidden()[:, order], segment()).hidden, whole[:, order])


def test_relu2_is_the_square_of_what_is_positive() -> None:
    layer = build("relu2")
    inside = layer.up(hidden())
    expected = torch.where(inside > 0, inside**2, 0.0) @ layer.down.weight.T
    torch.testing.assert_close(layer(hidden(), segment()).hidden, expected)


def test_gelu_is_its_tanh_form() -> None:
    layer = build("gelu")
    inside = layer.up(hidden())
    cubic = math.sqrt(2 / math.pi) * (inside + 0.044715 * inside**3)
    expected = (0.5 * inside * (1 + cubic.tanh())) @ layer.down.weight.T
    torch.testing.assert_close(layer(hidden(), segment()).hidden, expected)
    by_the_error_function = F.gelu(inside) @ layer.down.weight.T
    assert (expected - by_the_error_function).abs().max() > 1e-4  # a hundred times what the comparison above lets pass


def test_the_learnable_activation_begins_as_gelu_exactly() -> None:
    values = torch.linspace(-3, 3, 601)[:, None].expand(-1, 4)
    assert torch.equal(ActivationMix(4)(values), F.gelu(values, approximate="tanh"))


def test_the_learnable_activation_can_become_any_of_its_parts_in_each_channel() -> None:
    mix = ActivationMix(3)
    with torch.no_grad():
        for weight, chosen in ((mix.gelu, [1.0, 0.0, 0.0]), (mix.relu2, [0.0, 1.0, 0.0]), (mix.tanh, [0.0, 0.0, 1.0])):
            weight.copy_(torch.tensor(chosen))
    values = torch.linspace(-3, 3, 601)[:, None].expand(-1, 3)
    smooth, square, bounded = mix(values).unbind(dim=1)
    torch.testing.assert_close(smooth, F.gelu(values[:, 0], approximate="tanh"))
    torch.testing.assert_close(square, values[:, 0].clamp(min=0) ** 2)
    torch.testing.assert_close(bounded, values[:, 0].tanh())


def test_the_learnable_activation_has_the_derivative_of_its_formula() -> None:
    mix = ActivationMix(3).double()
    for parameter in mix.parameters():
        torch.nn.init.normal_(parameter)
    values = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *_: mix(values), (values, *mix.parameters()))


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_the_learnable_activation_keeps_its_digits_in_bf16(scale: float) -> None:
    torch.manual_seed(0)
    mix = ActivationMix(4)
    for parameter in mix.parameters():
        torch.nn.init.uniform_(parameter, 0.5, 1.0)  # of one sign, so that nothing cancels for positive values
    values = (torch.rand(1000, 4) * scale).bfloat16()
    rough, exact = mix(values), mix(values.float())
    assert rough.dtype == torch.bfloat16
    torch.testing.assert_close(rough.float(), exact, rtol=0.03, atol=1e-3)


def test_activation_weights_neither_decay_nor_meet_muon() -> None:
    named = [(f"layers.0.{name}", parameter) for name, parameter in build("learnable").named_parameters()]
    vectors = {parameter for name, parameter in named if "activation" in name}
    assert len(vectors) == 3
    groups = list(AdamW.Config(weight_decay=0.1).build(named).groups())
    assert {parameter for group in groups if group["weight_decay"] == 0 for parameter in group["params"]} == vectors
    muon = Muon.Config().build(named).parts[0]
    assert not vectors & {parameter for group in muon.param_groups for parameter in group["params"]}
