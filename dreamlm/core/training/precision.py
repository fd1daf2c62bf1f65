"""Which number format a run computes in. Weights and optimizer state are fp32 either way."""

from typing import Literal

import torch

from dreamlm.core.training.meters import matmul_peak

Precision = Literal["auto", "bf16", "fp32"]
WORTHWHILE = 1.5
"""How much faster bf16 products must be to pay for the casts."""


def choose_precision(asked: Precision, device: torch.device, size: int = 512, seconds: float = 0.05) -> tuple[str, str]:
    """`bf16` or `fp32`, and the reason in words.

    `auto` measures on a CPU: square products of that size in both formats, for so many seconds each.
    """
    if asked != "auto":
        return asked, "as the preset says"
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return ("bf16", "the GPU has native bf16") if native else ("fp32", "the GPU has no native bf16")
    fast, plain = (matmul_peak(device, dtype, size, seconds) for dtype in (torch.bfloat16, torch.float32))
    ratio = fast / plain
    found = f"bf16 products ran {ratio:.1f} times as fast as fp32 here"
    return ("bf16" if ratio >= WORTHWHILE else "fp32"), found
