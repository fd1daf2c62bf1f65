"""Held-out evaluation by all ranks together: each scores every n-th batch, and the sums are added up."""

from collections.abc import Iterator, Sequence
from math import log, sqrt
from typing import final

import numpy as np

from dreamlm.core.errors import DataError, DreamLMError, LossNotFinite
from dreamlm.core.evaluation.likelihood import NEXT_TOKEN, Likelihood
from dreamlm.core.evaluation.score import score
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.training.backend.backend import Backend, real_targets
from dreamlm.core.training.failing import failing_together
from dreamlm.core.training.surroundings import Validation
from dreamlm.core.types import Batch, Batches, HeldOut


def validate_together(
    backend: Backend,
    held_out: HeldOut,
    rows: int,
    source_names: Sequence[str],
    likelihood: Likelihood = NEXT_TOKEN,
) -> Validation:
    """The loss of the backend's model on the held-out text, the same on every rank and at any number of ranks.

    Collective; to be called inside `backend.whole()`, so that ranks need not run equally many forward passes.

    Raises, on every rank alike: DataError when there is no held-out text or its windows hold other targets than
    promised; LossNotFinite; DreamLMError when a loss differs from a plain cross-entropy.
    """
    with failing_together(backend, (LossNotFinite, DataError, DreamLMError)), backend.autocast():
        sources = len(source_names)
        mine = loss_sums(backend.model, held_out, rows, sources, backend.rank, backend.world_size, likelihood)
    nll_S, tokens_S, variance_S = np.array(backend.sum(mine)).reshape(3, -1)
    tokens = int(tokens_S.sum())
    if tokens != held_out.tokens or tokens == 0:
        raise DataError(f"the held-out text promises {held_out.tokens:,} targets, its windows hold {tokens:,}")
    nll = float(nll_S.sum())
    by_source = {name: float(nll_S[i] / tokens_S[i]) for i, name in enumerate(source_names) if tokens_S[i]}
    return Validation(
        nll / tokens,
        nll / (log(2) * held_out.utf8_bytes),
        by_source,
        likelihood.is_bound(backend.model),
        sqrt(variance_S.sum()) / tokens,
    )


def loss_sums(
    model: DreamLM,
    held_out: Batches,
    rows: int,
    sources: int,
    rank: int,
    world_size: int,
    likelihood: Likelihood = NEXT_TOKEN,
) -> list[float]:
    """Nats of each source, then targets, then variances of the nats, over the batches that are this rank's part."""
    part = _Part(held_out, rows, rank, world_size)
    nll_S, tokens_S, variance_S = np.zeros((3, sources))
    if len(part.batches(rows)):
        scores = score(model, part, rows, likelihood=likelihood)
        nll_S += np.bincount(scores.source_N, scores.nll_N, sources)
        tokens_S += np.bincount(scores.source_N, scores.tokens_N, sources)
        variance_S += np.bincount(scores.source_N, scores.variance_N, sources)
    return [*nll_S, *tokens_S, *variance_S]


@final
class _Part:
    """Every `world_size`-th batch, from number `rank`."""

    def __init__(self, whole: Batches, rows: int, rank: int, world_size: int) -> None:
        self._batches = _Every(whole.batches(rows), rank, world_size)
        self.tokens = sum(real_targets(batch) for batch in self._batches)

    def batches(self, rows: int) -> Sequence[Batch]:
        return self._batches


@final
class _Every(Sequence[Batch]):
    """Items first, first + step, ... of a sequence, read when they are asked for."""

    def __init__(self, items: Sequence[Batch], first: int, step: int) -> None:
        self._items, self._numbers = items, range(first, len(items), step)

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> Batch:  # type: ignore[override]
        return self._items[self._numbers[index]]

    def __iter__(self) -> Iterator[Batch]:
        return (self._items[number] for number in self._numbers)
