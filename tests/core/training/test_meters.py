"""Floating-point operations and peaks."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.training import meters
from dreamlm.core.training.memory import halved, is_out_of_memory
from dreamlm.core.training.meters import matmul_peak, peak_size, training_flops_per_token
from dreamlm.core.training.precision import choose_precision


@pytest.mark.parametrize("feed_forward", ["gelu", "learnable", "moe", "relu2", "swiglu"])
def test_flops_per_token_are_those_that_torch_counts(feed_forward: str) -> None:
    """Counted on the matrices and the head; torch counts attention without the causal half, so it is left out."""
    sizes = {"hidden_size": 64, "num_layers": 3, "num_heads": 2, "head_dim": 48, "seq_length": 32}
    model = DreamLM.Config.model_validate({**sizes, "feed_forward": feed_forward}).build(128).eval()
    tokens = torch.randint(0, 128, (64, 32))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.logits(model(tokens, torch.zeros_like(tokens), model.start(64), boundaries=False).hidden)
    counts = counter.get_flop_counts()["Global"]
    products = sum(count for operation, count in counts.items() if "mm" in str(operation))
    attention = 12 * 3 * 2 * 48 * 32 / 2
    # The experts' last rows of padding, and the gate's noise, which only training draws.
    slack = 0.02 if feed_forward == "moe" else 1e-6
    assert 3 * products / tokens.numel() == pytest.approx(training_flops_per_token(model, 32) - attention, rel=slack)


def test_the_peak_is_the_fastest_product_and_takes_about_the_time_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock of its own: products of 4, 1 and 5 seconds, and no more once 10 seconds are spent."""
    moments = iter([0.0, 4.0, 10.0, 11.0, 20.0, 25.0])
    monkeypatch.setattr(meters.time, "perf_counter", lambda: next(moments))
    assert matmul_peak(torch.device("cpu"), torch.float32, size=16, seconds=10.0) == 2 * 16**3 / 1.0
    assert next(moments, None) is None


def test_measuring_the_peak_leaves_random_numbers_where_they_are() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    matmul_peak(torch.device("cpu"), torch.float32, size=16, seconds=0.0001)
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize(
    ("device", "free_gigabytes", "dtype", "size"),
    [
        ("cpu", 0, torch.float32, 1024),
        ("cuda", 80, torch.bfloat16, 8192),
        ("cuda", 80, torch.float32, 8192),
        ("cuda", 4, torch.bfloat16, 8192),
        ("cuda", 4, torch.float32, 4096),
        ("cuda", 0.01, torch.float32, 1024),
    ],
)
def test_the_product_fills_a_gpu_but_not_its_memory(
    device: str, free_gigabytes: float, dtype: torch.dtype, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(free_gigabytes * 2**30), 80 * 2**30))
    assert peak_size(torch.device(device), dtype) == size


def test_the_peak_is_positive_and_asked_precision_is_kept() -> None:
    assert matmul_peak(torch.device("cpu"), torch.float32, size=64, seconds=0.001) > 0
    assert choose_precision("bf16", torch.device("cpu")) == ("bf16", "as the preset says")
    chosen, reason = choose_precision("auto", torch.device("cpu"))
    assert chosen in ("bf16", "fp32")
    assert reason.startswith("bf16 products ran ")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (RuntimeError("shape mismatch"), False),
        (ValueError("can't allocate memory"), False),
    ],
)
def test_out_of_memory_is_recognised(error: BaseException, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


@pytest.mark.parametrize(("rows", "fewer"), [(8, 4), (6, 3), (9, 3), (7, 1), (2, 1)])
def test_a_smaller_micro_batch_still_makes_up_the_step(rows: int, fewer: int) -> None:
    assert halved(rows) == fewer
