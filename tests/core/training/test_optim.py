"""Optimizers: which parameters they decay, move and remember."""

import pytest
import torch
from torch import nn

from dreamlm.core.errors import ResumeMismatch
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.training.optim import AdamW, Muon, Optimizers


def named() -> list[tuple[str, nn.Parameter]]:
    torch.manual_seed(0)
    model = DreamLM.Config(hidden_size=32, num_layers=1, num_heads=2, seq_length=8).build(50)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    return list(model.named_parameters())


def test_adamw_decays_matrices_only() -> None:
    parameters = named()
    for _, parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    before = {name: parameter.detach().clone() for name, parameter in parameters}
    AdamW.Config(learning_rate=0.1, weight_decay=0.5).build(parameters).step(1.0)
    for name, parameter in parameters:
        expected = before[name] * (1 - 0.1 * 0.5) if parameter.ndim == 2 else before[name]
        torch.testing.assert_close(parameter.detach(), expected)


def test_adamw_is_the_formula_of_the_paper() -> None:
    parameters = named()
    weight = parameters[0][1]
    config = AdamW.Config(learning_rate=0.01, betas=(0.9, 0.99), weight_decay=0.1, epsilon=1e-8)
    optimizers = config.build(parameters)
    expected, first, second = weight.detach().clone().double(), 0.0, 0.0
    for step in range(1, 4):
        gradient = torch.randn_like(weight)
        weight.grad = gradient.clone()
        optimizers.step(0.5)
        gradient = gradient.double()
        first, second = 0.9 * first + 0.1 * gradient, 0.99 * second + 0.01 * gradient**2
        update = (first / (1 - 0.9**step)) / ((second / (1 - 0.99**step)).sqrt() + 1e-8)
        expected = expected * (1 - 0.005 * 0.1) - 0.005 * update
    torch.testing.assert_close(weight.detach().double(), expected, atol=1e-6, rtol=1e-5)


def test_muon_moves_layer_matrices_and_leaves_the_rest_to_adamw() -> None:
    parameters = named()
    optimizers = Muon.Config().build(parameters)
    optimizers.step(1.0)
    muon = {key.split("/")[0] for key in optimizers.state() if key.endswith("/momentum_buffer")}
    adam = {key.split("/")[0] for key in optimizers.state() if key.endswith("/exp_avg")}
    assert muon == {name for name, p in parameters if p.ndim == 2 and name.startswith("layers.")}
    assert adam == {name for name, _ in parameters} - muon


def test_muon_moves_the_maps_of_modules_and_not_their_tables() -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_layers": 1, "num_heads": 2, "seq_length": 8, "segment_length": 4}
    experts = {"feed_forward": {"type": "moe", "num_experts": 2}, "modules": [{"type": "segment_summary"}]}
    model = DreamLM.Config.model_validate({**sizes, **experts}).build(50)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizers = Muon.Config().build(list(model.named_parameters()))
    optimizers.step(1.0)
    muon = {key.split("/")[0] for key in optimizers.state() if key.endswith("/momentum_buffer")}
    linear = {f"{name}.weight" for name, part in model.named_modules() if isinstance(part, nn.Linear)}
    assert muon - linear == {f"layers.0.feed_forward.gate.{part}.weight" for part in ("clean", "noise.loudness")}
    assert linear <= muon


@pytest.mark.parametrize("config", [AdamW.Config(), Muon.Config()])
def test_as_one_torch_optimizer_the_steps_are_the_same(config: AdamW.Config | Muon.Config) -> None:
    first, second = named(), named()
    apart, together = config.build(first), config.build(second)
    one = together.as_one()
    apart.step(0.5)
    for group in one.param_groups:
        group["lr"] = group["initial_lr"] * 0.5
    one.step()
    for (_, left), (_, right) in zip(first, second, strict=True):
        assert torch.equal(left, right)
    one.zero_grad()
    assert all(parameter.grad is None for _, parameter in second)


def test_a_muon_update_is_nearly_orthogonal() -> None:
    parameters = named()
    weights = dict(parameters)["layers.0.attention.query.weight"]
    before = weights.detach().clone()
    Muon.Config(learning_rate=1.0, weight_decay=0.0).build(parameters).step(1.0)
    singular = torch.linalg.svdvals(before - weights.detach())
    assert singular.max() / singular.min() < 3.0


def stepped(optimizers: Optimizers, weight: nn.Parameter, gradient: torch.Tensor) -> torch.Tensor:
    """What one step at the full learning rate takes off a weight."""
    before = weight.detach().clone()
    weight.grad = gradient.clone()
    optimizers.step(1.0)
    return before - weight.detach()


def test_a_muon_update_is_as_large_as_one_of_adamw() -> None:
    """Liu et al. 2025, "Muon is Scalable for LLM Training", section 2.2: a root mean square of 0.2 for any shape."""
    for rows, columns in ((128, 128), (64, 256), (256, 64)):
        weight = nn.Parameter(torch.zeros(rows, columns))
        config = Muon.Config(learning_rate=1.0, weight_decay=0.0)
        optimizers = config.build([("layers.0.map.weight", weight), ("scale", nn.Parameter(torch.zeros(1)))])
        generator = torch.Generator().manual_seed(0)
        update = stepped(optimizers, weight, torch.randn(rows, columns, generator=generator))
        assert update.square().mean().sqrt().item() == pytest.approx(0.2, rel=0.15)


@pytest.mark.parametrize(("momentum", "same"), [(0.0, True), (0.95, False)])
def test_muon_remembers_gradients_by_its_momentum(momentum: float, same: bool) -> None:
    first, second = torch.randn(2, 64, 64, generator=torch.Generator().manual_seed(0))
    config = Muon.Config(learning_rate=1.0, weight_decay=0.0, momentum=momentum)
    updates = []
    for gradients in ((first, second), (second,)):
        weight = nn.Parameter(torch.zeros(64, 64))
        optimizers = config.build([("layers.0.map.weight", weight), ("scale", nn.Parameter(torch.zeros(1)))])
        *_, update = (stepped(optimizers, weight, gradient) for gradient in gradients)
        updates.append(update)
    assert torch.allclose(*updates, atol=1e-6) is same


def test_adamw_divides_by_the_gradients_size_and_epsilon() -> None:
    weight = nn.Parameter(torch.zeros(4))
    optimizers = AdamW.Config(learning_rate=1.0, epsilon=1.0, weight_decay=0.0).build([("weight", weight)])
    assert stepped(optimizers, weight, torch.ones(4)).tolist() == pytest.approx([0.5] * 4)


@pytest.mark.parametrize("config", [AdamW.Config(), Muon.Config()])
def test_state_survives_by_name(config: AdamW.Config | Muon.Config) -> None:
    first, second = named(), named()
    ours, theirs = config.build(first), config.build(second)
    ours.step(1.0)
    with torch.no_grad():
        for (_, source), (_, target) in zip(first, second, strict=True):
            target.copy_(source)
    theirs.restore(ours.state())
    for optimizers in (ours, theirs):
        optimizers.step(0.5)
    for (_, source), (_, target) in zip(first, second, strict=True):
        assert torch.equal(source, target)


def test_state_of_an_unknown_parameter_is_refused() -> None:
    with pytest.raises(ResumeMismatch, match=r"'gone\.weight'"):
        AdamW.Config().build(named()).restore({"gone.weight/exp_avg": torch.zeros(1)})
