"""Which number format a run computes in. Weights and optimizer state are fp32 either way."""

from typing import Literal

import torch

from dreamlm.core.training.meters import matmul_peak

Precision = Literal["auto", "bf16", "fp32"]
WORTHWHILE = 1.5
"""How much faster bf16 products must be to pay for the casts."""


def choose_precision(asked: Precision, device: torch.device) -> tuple[str, str]:
    """`bf16` or `fp32`, and the reason in words. On a CPU, `auto` measures products of both for about 50 ms each."""
    if asked != "auto":
        return asked, "as the preset says"
    if device.type == "cuda":
        native = native_bf16(device)
        return ("bf16", "the GPU has native bf16") if native else ("fp32", "the GPU has no native bf16")
    ratio = matmul_peak(device, torch.bfloat16, 512, 0.05) / matmul_peak(device, torch.float32, 512, 0.05)
    found = f"bf16 products ran {ratio:.1f} times as fast as fp32 here"
    return ("bf16" if ratio >= WORTHWHILE else "fp32"), found


def native_bf16(device: torch.device) -> bool:
    """Whether the processor itself multiplies bf16: known without a clock, so it is the same in every run.

    An older torch does not say so of a CPU; then nothing is known of it.
    """
    if device.type == "cuda":
        native: bool = torch.cuda.is_bf16_supported(including_emulation=False)
        return native
    found = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return any(found.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
