"""Shorter rows first: early in a run the windows of a step are cut into several rows each.

The windows themselves, their order and the cursor stay what they are, and so do the targets of a step: each is trained
exactly once, only with less text before it. Shapes: B windows, P pieces of a window, T targets of a window, L of a row.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import final

import numpy as np
from pydantic import Field

from dreamlm.core.config import ConfigModel
from dreamlm.core.types import Batch


@final
class LengthSchedule:
    """How long rows are, by the progress of the run.

    Source: Li et al. 2022, "The Stability-Efficiency Dilemma" (sequence length warm-up); Press et al. 2021,
    "Shortformer" (stages).  Departs: Li et al. drop what a shortened row leaves over; here it becomes further rows.
    """

    class Stage(ConfigModel):
        until: float = Field(gt=0.0, le=1.0)
        """Share of the run's planned steps, after which the next stage begins, or rows of a whole window."""
        length: int = Field(ge=1)
        """Targets of a row; a divisor of `model.seq_length`, and with modules a multiple of `model.segment_length`."""

    def __init__(self, stages: Sequence[Stage], seq_length: int) -> None:
        """`stages` in the order of their ends, with lengths that divide `seq_length`: `objections` has none."""
        self._stages, self._seq_length = tuple(stages), seq_length

    @property
    def lengths(self) -> frozenset[int]:
        """Every length that a row may have."""
        return frozenset({self._seq_length, *(stage.length for stage in self._stages)})

    def at(self, progress: float) -> int:
        """Targets of a row when that share of the planned steps is done."""
        return next((stage.length for stage in self._stages if progress < stage.until), self._seq_length)


def objections(
    stages: Sequence[LengthSchedule.Stage], seq_length: int, segment_length: int | None, block: int
) -> list[tuple[int, str]]:
    """(number of the stage, what is wrong with its length).

    segment_length: None without modules.  block: tokens that the model writes at once.
    """
    found = []
    for number, stage in enumerate(stages):
        if seq_length % stage.length:
            found.append((number, f"{stage.length} must divide model.seq_length {seq_length}"))
        elif segment_length and (stage.length % segment_length or stage.length == segment_length):
            what = f"{stage.length} must be two or more segments of model.segment_length {segment_length}"
            found.append((number, f"{what}: modules learn nothing in a single one"))
        elif stage.length % block:
            found.append(
                (number, f"{stage.length} must be a multiple of the block of {block} tokens (model.diffusion)")
            )
    return found


def cut_rows(batch: Batch, length: int) -> Batch:
    """Each row of T+1 tokens as T / `length` rows of `length`+1; neighbours share a token, which is a target once.

    Documents are counted from 0 again within each row, so that rows of one document need no mask. Rows that show places
    of one picture share it.
    """
    pieces = (batch.tokens.shape[1] - 1) // length
    if pieces == 1:
        return batch
    place_PL = np.arange(pieces)[:, None] * length + np.arange(length + 1)
    documents_BL = batch.documents[:, place_PL].reshape(-1, length + 1)
    first_B1 = np.maximum(documents_BL[:, :1], 0)
    pictures = batch.pictures
    return Batch(
        tokens=batch.tokens[:, place_PL].reshape(-1, length + 1),
        documents=np.where(documents_BL < 0, documents_BL, documents_BL - first_B1),
        sources=batch.sources.repeat(pieces),
        windows=tuple(window for window in batch.windows for _ in range(pieces)),
        pictures=pictures and replace(pictures, of=pictures.of[:, place_PL].reshape(-1, length + 1)),
    )
