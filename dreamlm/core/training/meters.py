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
    were not chosen; a tied head does), and 12 * layers * H * K * T / 2 for causal attention. A diffusion model reads
    each token twice, clean and as a slot, and predicts only those that are hidden: half of a long block.
    Source: Kaplan et al. 2020, appendix of Chowdhery et al. 2022 (PaLM).
    """
    matrices = sum(parameter.numel() for parameter in model.layers.parameters() if parameter.ndim == 2)
    matrices -= sum(part.idle_weights for part in model.layers.modules() if isinstance(part, Experts))
    head = model.vocab_size * model.config.hidden_size
    attention = 12 * model.config.num_layers * model.config.num_heads * model.config.head_size * seq_length / 2
    if model.config.diffusion is None:
        return 6 * (matrices + head) + attention
    hidden = (1 + 1 / model.config.block) / 2
    return 6 * (2 * matrices + hidden * head) + 2 * attention


def matmul_peak(device: torch.device, dtype: torch.dtype, size: int | None = None, seconds: float = 0.1) -> float:
    """Floating-point operations per second of the fastest square product in `dtype`: what a step could reach at best.

    The fastest of the products that fit into `seconds`, one at least, each timed from an idle device to an idle device;
    the one that warms up is not among them. float32 on a GPU means TF32 where that is allowed.
    `size`: rows and columns; by default as large as it takes to fill the device, see `peak_size`.
    """
    size = size or peak_size(device, dtype)
    dice = torch.Generator(device).manual_seed(0)  # the run's own random numbers stay where they are
    left, right = (torch.randn(size, size, generator=dice, device=device, dtype=dtype) for _ in range(2))
    product = left @ right
    best, spent = float("inf"), 0.0
    while spent < seconds:
        _synchronise(device)
        begin = time.perf_counter()
        torch.mm(left, right, out=product)
        _synchronise(device)
        took = time.perf_counter() - begin
        best, spent = min(best, took), spent + took
    return 2.0 * size**3 / best


def peak_size(device: torch.device, dtype: torch.dtype) -> int:
    """Rows and columns of a product that keeps the whole device busy: 1,024 on a CPU; on a GPU 8,192, where starting a
    product takes no time worth mentioning, or less if the three matrices would take over an eighth of the free memory.
    """
    if device.type != "cuda":
        return 1024
    size, free_bytes = 8192, torch.cuda.mem_get_info(device)[0]
    while size > 1024 and 3 * size**2 * dtype.itemsize > free_bytes / 8:
        size //= 2
    return size


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
