"""Floating-point operations and peaks."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.training.memory import halved, is_out_of_memory
from dreamlm.core.training.meters import matmul_peak, training_flops_per_token
from dreamlm.core.training.precision import choose_precision


@pytest.mark.parametrize("feed_forward", ["gelu", "learnable", "moe", "relu2", "swiglu"])
def test_flops_per_token_are_those_that_torch_counts(feed_forward: str) -> None:
    """Counted on the matrices and the head; torch counts attention without the causal half, so it is left out."""
    sizes = {"hidden_size": 64, "num_layers": 3, "num_heads": 2, "seq_length": 32}
    model = DreamLM.Config.model_validate({**sizes, "feed_forward": feed_forward}).build(128).eval()
    tokens = torch.randint(0, 128, (64, 32))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.logits(model(tokens, torch.zeros_like(tokens), model.start(64), boundaries=False).hidden)
    counts = counter.get_flop_counts()["Global"]
    products = sum(count for operation, count in counts.items() if "mm" in str(operation))
    attention = 12 * 3 * 64 * 32 / 2
    # The experts' last rows of padding, and the gate's noise, which only training draws.
    slack = 0.02 if feed_forward == "moe" else 1e-6
    assert 3 * products / tokens.numel() == pytest.approx(training_flops_per_token(model, 32) - attention, rel=slack)


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
        (RuntimeError("shape mismatch"), False),
        (ValueError("can't allocate memory"), False),
    ],
)
def test_out_of_memory_is_recognised(error: BaseException, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


@pytest.mark.parametrize(("rows", "fewer"), [(8, 4), (6, 3), (9, 3), (7, 1), (2, 1)])
def test_a_smaller_micro_batch_still_makes_up_the_step(rows: int, fewer: int) -> None:
    assert halved(rows) == fewer
