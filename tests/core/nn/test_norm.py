"""Both norms are the formulas that they are named after, and know no other epsilon than the one they are given."""

import pytest
import torch

from dreamlm.core.nn.norm import LayerNorm, NormName, RMSNorm, build_norm

WIDTH = 6


def built(name: NormName, epsilon: float) -> RMSNorm | LayerNorm:
    norm = build_norm(name, WIDTH, epsilon)
    for parameter in norm.parameters():
        torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(3))
    return norm


def values() -> torch.Tensor:
    """Far from a mean of 0, and as small as the epsilon."""
    return 0.4 + 0.2 * torch.randn(2, 5, WIDTH, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("epsilon", [1e-5, 0.1])
def test_layernorm_takes_the_mean_away_and_divides_by_the_deviation(epsilon: float) -> None:
    norm, peer = built("layernorm", epsilon), torch.nn.LayerNorm(WIDTH, epsilon)
    peer.load_state_dict(norm.state_dict())
    torch.testing.assert_close(norm(values()), peer(values()))
    centred = values() - values().mean(dim=-1, keepdim=True)
    variance = centred.square().mean(dim=-1, keepdim=True)
    torch.testing.assert_close(norm(values()), centred / (variance + epsilon).sqrt() * norm.weight + norm.bias)


@pytest.mark.parametrize("epsilon", [1e-5, 0.1])
def test_rmsnorm_divides_by_the_root_of_the_mean_square(epsilon: float) -> None:
    norm = built("rmsnorm", epsilon)
    size = (values().square().mean(dim=-1, keepdim=True) + epsilon).sqrt()
    torch.testing.assert_close(norm(values()), values() / size * norm.weight)


@pytest.mark.parametrize("name", ["layernorm", "rmsnorm"])
def test_what_is_normalised_keeps_its_type(name: NormName) -> None:
    assert built(name, 1e-5)(values().bfloat16()).dtype == torch.bfloat16
