"""Frequencies slow down as the papers say, and as transformers computes them."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from dreamlm.core.nn.positions.scaling import LinearScaling, Llama3Scaling, Unscaled, YaRN


def plain(head_size: int, theta: float) -> torch.Tensor:
    return theta ** (-torch.arange(0, head_size, 2, dtype=torch.float32) / head_size)


def by_transformers(kind: str, head_size: int, theta: float, length: int, factor: float, **more: float) -> tuple:
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rule = {"rope_type": kind, "rope_theta": theta, "factor": factor, **more}
    if kind != "linear":
        rule["original_max_position_embeddings"] = length
    config = LlamaConfig(
        hidden_size=2 * head_size,
        num_attention_heads=2,
        max_position_embeddings=int(length * factor),
        rope_parameters=rule,
    )
    return ROPE_INIT_FUNCTIONS[kind](config, "cpu")


@pytest.mark.parametrize("factor", [1.0, 1.5, 4.0, 16.0, 40.0])
@pytest.mark.parametrize(
    ("head_size", "theta", "length"),
    [(32, 1e4, 256), (64, 1e4, 256), (128, 5e5, 4096), (8, 500.0, 16), (32, 100.0, 4096)],
)
def test_yarn_equals_transformers(head_size: int, theta: float, length: int, factor: float) -> None:
    frequencies, temperature = by_transformers("yarn", head_size, theta, length, factor)
    rule = YaRN(factor=factor, original_length=length)
    torch.testing.assert_close(rule.slowed(plain(head_size, theta), theta), frequencies, atol=0, rtol=1e-6)
    assert rule.temperature == pytest.approx(temperature, abs=1e-12)


def test_yarn_with_other_ends_of_the_ramp_equals_transformers() -> None:
    frequencies, _ = by_transformers("yarn", 64, 1e4, 512, 8.0, beta_fast=16.0, beta_slow=2.0)
    rule = YaRN(factor=8.0, original_length=512, beta_fast=16.0, beta_slow=2.0)
    torch.testing.assert_close(rule.slowed(plain(64, 1e4), 1e4), frequencies, atol=0, rtol=1e-6)


def test_linear_scaling_equals_transformers() -> None:
    frequencies, temperature = by_transformers("linear", 64, 1e4, 256, 4.0)
    rule = LinearScaling(factor=4.0)
    torch.testing.assert_close(rule.slowed(plain(64, 1e4), 1e4), frequencies, atol=0, rtol=1e-6)
    assert rule.temperature == temperature


@pytest.mark.parametrize("ends", [(4.0, 1.0), (12.0, 0.5)], ids=["as published", "others"])
@pytest.mark.parametrize("factor", [1.0, 8.0, 32.0])
@pytest.mark.parametrize(
    ("head_size", "theta", "length"), [(64, 5e5, 8192), (128, 5e5, 8192), (32, 1e4, 256), (8, 500.0, 16)]
)
def test_llama3_scaling_equals_transformers(
    head_size: int, theta: float, length: int, factor: float, ends: tuple[float, float]
) -> None:
    fast, slow = ends
    names = {"high_freq_factor": fast, "low_freq_factor": slow}
    frequencies, temperature = by_transformers("llama3", head_size, theta, length, factor, **names)
    rule = Llama3Scaling(factor=factor, original_length=length, beta_fast=fast, beta_slow=slow)
    torch.testing.assert_close(rule.slowed(plain(head_size, theta), theta), frequencies, atol=0, rtol=1e-5)
    assert rule.temperature == temperature


def test_ends_of_llama3_scaling_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"beta_fast 1\.0 \(high_freq_factor\) must be above beta_slow 1\.0"):
        Llama3Scaling(factor=8.0, original_length=64, beta_fast=1.0)


@given(
    factor=st.floats(1.0, 64.0),
    length=st.integers(2, 8192),
    theta=st.floats(100.0, 1e6),
    pairs=st.integers(2, 64),
)
def test_yarn_keeps_fast_pairs_divides_slow_ones_and_never_leaves_that_range(
    factor: float, length: int, theta: float, pairs: int
) -> None:
    before = plain(2 * pairs, theta)
    slower = YaRN(factor=factor, original_length=length).slowed(before, theta) / before
    assert bool((slower <= 1 + 1e-6).all())
    assert bool((slower >= 1 / factor - 1e-6).all())
    assert bool((slower.diff() <= 1e-6).all())
    turns = length * before / (2 * math.pi)
    assert bool((slower[turns >= 32.0] >= 1 - 1e-6).all())
    # The ramp ends at the next whole pair.
    below = torch.arange(pairs)[turns < 1.0][1:]
    assert torch.allclose(slower[below], torch.tensor(1 / factor), rtol=1e-5)


def test_an_extension_of_an_extension_is_the_extension_of_the_first_training() -> None:
    once = Unscaled().extended(256, 512, "lower_half")
    assert once == YaRN(factor=2, original_length=256, layers="lower_half")
    assert once.extended(512, 2048, None) == YaRN(factor=8, original_length=256, layers="lower_half")
    assert once.extended(512, 2048, "all").layers == "all"
    # Of a model whose rule reaches further than the windows that it was trained on: never less than it had.
    reaching = YaRN(factor=4, original_length=256)
    assert reaching.extended(512, 2048, None) == YaRN(factor=8, original_length=256)
    assert reaching.extended(512, 513, None) == reaching
    assert reaching.extended(512, 1024, None) == reaching
    assert reaching.extended(512, 1024, (1,)) == YaRN(factor=4, original_length=256, layers=(1,))
    assert LinearScaling(factor=2, layers=(1,)).extended(512, 2048, None) == LinearScaling(factor=8, layers=(1,))
    # Whose factor is not what its windows are longer by.
    llama = Llama3Scaling(factor=8, original_length=256)
    assert llama.extended(4096, 8192, None) == Llama3Scaling(factor=16, original_length=256)
    assert llama.extended(4096, 8192, (1,)).layers == (1,)


def test_the_ramp_of_yarn_does_not_run_backwards() -> None:
    with pytest.raises(ValidationError, match=r"beta_fast 1\.0 must not be below beta_slow 32\.0"):
        YaRN(factor=4.0, original_length=16, beta_fast=1.0, beta_slow=32.0)
    YaRN(factor=4.0, original_length=16, beta_fast=2.0, beta_slow=2.0)
