"""Which number format a run computes in. Weights and optimizer state are fp32 either way."""

from typing import Literal

import torch

from dreamlm.core.training.meters import matmul_peak

Precision = Literal["auto", "bf16", "fp32"]
WORTHWHILE = 1.5
"""How much faster bf16 products must be to pay for the casts."""


def choose_precision(asked: Precision, device: torch.device) -> tuple[str, str]:
    """`bf16` or `fp32`, and the reason in words. `auto` measures products of both formats for about 50 ms each."""
    if asked != "auto":
        return asked, "as the preset says"
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return ("bf16", "the GPU has native bf16") if native else ("fp32", "the GPU has no native bf16")
    ratio = matmul_peak(device, torch.bfloat16, 512, 0.05) / matmul_peak(device, torch.float32, 512, 0.05)
    found = f"bf16 products ran {ratio:.1f} times as fast as fp32 here"
    return ("bf16" if ratio >= WORTHWHILE else "fp32"), found
