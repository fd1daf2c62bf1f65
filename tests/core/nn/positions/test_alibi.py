"""ALiBi without a bias for every pair of tokens gives the attention that such a bias gives."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.nn.positions.alibi import ALiBi, slopes

HEADS, WIDTH = 6, 24


def naive_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, rows: slice) -> torch.Tensor:
    """Softmax over q k^T / sqrt(K) - slope (i - j) in double precision, for some queries."""
    every = torch.arange(key.shape[2])
    distance = every[rows, None] - every
    bias = -torch.tensor(slopes(HEADS)).double()[:, None, None] * distance
    scores = query.double()[:, :, rows] @ key.double().transpose(-1, -2) / math.sqrt(WIDTH) + bias
    return scores.masked_fill(distance < 0, -torch.inf).softmax(-1) @ value.double()


def attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    placement = ALiBi(HEADS, WIDTH).place(torch.arange(key.shape[2])[None], query.dtype)
    wide_query, wide_key = placement.query(query, 0), placement.key(key, 0)
    wide_value = F.pad(value, (0, wide_key.shape[-1] - WIDTH))
    mixed = F.scaled_dot_product_attention(wide_query, wide_key, wide_value, is_causal=True, scale=WIDTH**-0.5)
    return mixed[..., :WIDTH]


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    # The result itself is rounded to the 8 bits of bf16; so are the weights that it is summed with.
    [(torch.float32, 2e-4), (torch.bfloat16, 2.0**-6)],
)
@pytest.mark.parametrize("length", [100, 4096])
def test_it_equals_a_bias_on_every_pair(dtype: torch.dtype, tolerance: float, length: int) -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, HEADS, length, WIDTH, generator=generator).to(dtype) for _ in range(3))
    rows = slice(length - 50, length)
    expected = naive_attention(query, key, value, rows)
    torch.testing.assert_close(attention(query, key, value)[:, :, rows].double(), expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize(("dtype", "relative"), [(torch.float32, 2.0**-22), (torch.bfloat16, 2.0**-16)])
@given(position=st.integers(0, 2**24 - 1))
def test_the_penalty_of_any_position_is_exact_in_any_float_type(
    dtype: torch.dtype, relative: float, position: int
) -> None:
    placement = ALiBi(HEADS, WIDTH).place(torch.tensor([[position]]), dtype)
    nothing = torch.zeros(1, HEADS, 1, WIDTH, dtype=dtype)
    appended = placement.query(nothing, 0).double() * placement.key(nothing, 0).double()
    expected = [slope * position * math.sqrt(WIDTH) for slope in slopes(HEADS)]
    assert appended.sum(-1).flatten().tolist() == pytest.approx(expected, rel=relative)


@pytest.mark.parametrize("num_heads", range(1, 34))
def test_slopes_equal_those_of_bloom_and_mpt(num_heads: int) -> None:
    from transformers.models.bloom.modeling_bloom import build_alibi_tensor
    from transformers.models.mpt.modeling_mpt import build_mpt_alibi_tensor

    bloom = build_alibi_tensor(torch.ones(1, 2), num_heads, torch.float32)[:, 0, 1]
    mpt = -build_mpt_alibi_tensor(num_heads, 2)[:, 0, 0]
    torch.testing.assert_close(torch.tensor(slopes(num_heads)), bloom, atol=0, rtol=1e-6)
    torch.testing.assert_close(torch.tensor(slopes(num_heads)), mpt, atol=0, rtol=1e-6)


def test_tokens_further_back_weigh_less_and_every_head_forgets_at_its_own_pace() -> None:
    same = torch.zeros(1, HEADS, 64, WIDTH)
    place_code = torch.eye(64)[:, :WIDTH].expand(1, HEADS, 64, WIDTH)
    seen = attention(same, same, place_code)[0, :, WIDTH - 1]
    assert bool((seen.diff(dim=-1) > 0).all())
    newest_first = sorted(range(HEADS), key=lambda head: -seen[head, -1].item())
    assert newest_first == sorted(range(HEADS), key=lambda head: -slopes(HEADS)[head])


@pytest.mark.parametrize("autocast", [False, True])
def test_training_runs_in_a_kernel_that_holds_no_weights_of_every_pair(autocast: bool) -> None:
    config = DreamLM.Config.model_validate({"hidden_size": 48, "num_heads": 6, "num_kv_heads": 2, "positions": "alibi"})
    torch.manual_seed(0)
    model = config.build(50)
    ids = torch.randint(0, 50, (2, 40))
    with sdpa_kernel([SDPBackend.FLASH_ATTENTION]), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        signal = model(ids, torch.zeros_like(ids), model.start(2), boundaries=False)
        signal.hidden.float().sum().backward()
    assert signal.carry.states["layers.0"].key.dtype == (torch.bfloat16 if autocast else torch.float32)
