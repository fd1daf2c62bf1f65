"""Speed, counted in real tokens of all ranks over wall time, and as a share of a measured matmul peak."""

import time
from collections.abc import Callable
from typing import final

import torch

from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.nn.moe.dispatch import Experts


@final
class Throughput:
    """Real tokens per second between two calls of `count`; a test gives its own clock to pin the figure."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._last = clock()

    def restart(self) -> None:
        """Leave out what happened since the last count: an evaluation, a save."""
        self._last = self._clock()

    def count(self, tokens: int) -> tuple[float, float]:
        """Tokens per second, and the seconds since the last count or restart."""
        now = self._clock()
        seconds, self._last = now - self._last, now
        return (tokens / seconds if seconds > 0 else 0.0), seconds


def training_flops_per_token(model: DreamLM, seq_length: int) -> float:
    """Floating-point operations of forward and backward per token, without recomputation.

    Six per weight of every matrix that multiplies the token (the embedding look-up does not, nor do the experts that
    were not chosen; a tied head does), and 12 * layers * D * T / 2 for causal attention.
    Source: Kaplan et al. 2020, appendix of Chowdhery et al. 2022 (PaLM).
    """
    matrices = sum(parameter.numel() for parameter in model.layers.parameters() if parameter.ndim == 2)
    matrices -= sum(part.idle_weights for part in model.layers.modules() if isinstance(part, Experts))
    head = model.vocab_size * model.config.hidden_size
    attention = 12 * model.config.num_layers * model.config.hidden_size * seq_length / 2
    return 6 * (matrices + head) + attention


def matmul_peak(device: torch.device, dtype: torch.dtype, size: int = 1024, seconds: float = 0.1) -> float:
    """Best floating-point operations per second of a square product, over about `seconds` of trying."""
    left = torch.randn(size, size, device=device).to(dtype)
    right = torch.randn(size, size, device=device).to(dtype)
    best, spent = float("inf"), 0.0
    _ = left @ right
    while spent < seconds:
        _synchronise(device)
        begin = time.perf_counter()
        _ = left @ right
        _synchronise(device)
        took = time.perf_counter() - begin
        best, spent = min(best, took), spent + took
    return 2.0 * size**3 / best


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
