"""The loss of every held-out window, in double precision, so that it does not depend on how windows are batched.

Shapes: B rows, T targets of a window, N windows.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dreamlm.core.errors import DataError, DreamLMError, LossNotFinite
from dreamlm.core.evaluation.likelihood import NEXT_TOKEN, Likelihood
from dreamlm.core.inference import inference
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.types import Batches


@dataclass(frozen=True)
class WindowScores:
    """Negative log-likelihoods in nats: unsmoothed, without auxiliaries, over real targets only."""

    nll_N: npt.NDArray[np.float64]
    """Sum over the targets of each window."""
    variance_N: npt.NDArray[np.float64]
    """Of that sum, where it is an estimate; else 0."""
    tokens_N: npt.NDArray[np.int64]
    """How many real targets each window has."""
    source_N: npt.NDArray[np.int64]
    """Which source each window came from."""
    position_nll_T: npt.NDArray[np.float64]
    """Sum over all windows, by place within the window."""
    position_tokens_T: npt.NDArray[np.int64]
    """How many windows have a real target at that place."""
    places: int
    """How many places were computed, padding among them."""
    parity_error: float
    """Largest difference per token, on the first window, to `torch.nn.functional.cross_entropy` over whole logits."""


def no_progress(done: int, total: int) -> None:
    """For callers who do not watch."""


def score(
    model: DreamLM,
    held_out: Batches,
    rows: int,
    on_progress: Callable[[int, int], None] = no_progress,
    likelihood: Likelihood = NEXT_TOKEN,
) -> WindowScores:
    """Run the model over all windows, `rows` at a time; on_progress gets batches done and in all.

    Raises: DataError when the windows hold other targets than they promise; LossNotFinite; DreamLMError
    when a loss differs from a plain cross-entropy.
    """
    batches = held_out.batches(rows)
    if len(batches) == 0:
        raise DataError("there is no held-out text to evaluate on", hint="prepare a corpus with a validation part")
    nll_N, variance_N, tokens_N, source_N = [], [], [], []
    position_nll_T, position_tokens_T = np.zeros(1), np.zeros(1, np.int64)
    places, parity_error = 0, 0.0
    with inference(model):
        for number, batch in enumerate(batches):
            losses = likelihood.losses(model, batch, check=number == 0)
            parity_error = max(parity_error, losses.parity_error)
            nll_N.append(losses.nll_BT.sum(axis=1))
            variance_N.append(losses.variance_B)
            tokens_N.append(losses.real_BT.sum(axis=1))
            source_N.append(batch.sources)
            position_nll_T = _added(position_nll_T, losses.nll_BT.sum(axis=0))
            position_tokens_T = _added(position_tokens_T, losses.real_BT.sum(axis=0))
            places += losses.real_BT.size
            on_progress(number + 1, len(batches))
    scores = WindowScores(
        np.concatenate(nll_N),
        np.concatenate(variance_N),
        np.concatenate(tokens_N),
        np.concatenate(source_N).astype(np.int64),
        position_nll_T,
        position_tokens_T,
        places,
        parity_error,
    )
    _check(scores, held_out.tokens, _parity_tolerance(model))
    return scores


def _added(one_T: npt.NDArray[Any], other_T: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The sum of what may differ in length."""
    total_T = np.zeros(max(len(one_T), len(other_T)), np.result_type(one_T, other_T))
    for part_T in (one_T, other_T):
        total_T[: len(part_T)] += part_T
    return total_T


def _parity_tolerance(model: DreamLM) -> float:
    device = model.device.type
    exact = model.head.weight.dtype == torch.float32 and not torch.is_autocast_enabled(device)
    if not exact:
        return 0.25  # logits of a few tens, rounded to the 8 bits of bf16
    tensor_cores = device == "cuda" and torch.get_float32_matmul_precision() != "highest"
    return 0.03 if tensor_cores else 1e-4  # to the 11 bits of TF32, in products cut differently


def _check(scores: WindowScores, promised: int, parity_tolerance: float) -> None:
    broken = np.flatnonzero(~np.isfinite(scores.nll_N))
    if len(broken):
        raise LossNotFinite(
            f"the loss is not finite on {len(broken)} of {len(scores.nll_N)} held-out windows",
            where=f"first at window {broken[0]}",
            hint="the weights may be damaged or have diverged: dreamlm ckpt verify, or an earlier snapshot",
        )
    if scores.parity_error > parity_tolerance:
        raise DreamLMError(
            f"chunked and plain cross-entropy differ by {scores.parity_error:.2g} nats on one token",
            valid=[f"at most {parity_tolerance:g}"],
            hint="this is a bug of dreamlm: please report it",
        )
    found = int(scores.tokens_N.sum())
    if found != promised or found == 0:
        raise DataError(f"the held-out text promises {promised:,} targets, its windows hold {found:,}")
