"""What held-out texts lose when their segments are shown something else than what the segments before left behind.

Shapes: B rows, T targets, N texts.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dreamlm.core.evaluation.estimates import PerText
from dreamlm.core.evaluation.likelihood import Likelihood
from dreamlm.core.evaluation.reading import Reading
from dreamlm.core.evaluation.score import no_progress
from dreamlm.core.inference import inference
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.types import Batch, Documents


@dataclass(frozen=True)
class TextLosses:
    """Nats of each text, read in one way."""

    reading_N: npt.NDArray[np.float64]
    """Sum over the tokens that are predicted with something in sight: those behind the first segment."""
    overall_N: npt.NDArray[np.float64]
    """Sum over all tokens."""
    reading_tokens_N: npt.NDArray[np.int64]
    tokens_N: npt.NDArray[np.int64]


def ablated(
    model: DreamLM,
    documents: Documents,
    rows: int,
    ways: Mapping[str, Callable[[npt.NDArray[np.int64]], Reading]],
    measured_by: Callable[[Reading], Likelihood],
    on_progress: Callable[[int, int], None] = no_progress,
) -> dict[str, TextLosses]:
    """The loss of every text, read in each way; on_progress gets passes over a batch done and in all.

    ways: how rows that hold the texts of the given numbers are read, by name.
    measured_by: a likelihood whose texts are read in the given way; it draws the same for the same text, so that all
    that differs is what is shown.
    """
    batches = documents.batches(rows)
    sums: dict[str, npt.NDArray[np.float64]] = {name: np.zeros((4, len(documents.owner_N))) for name in ways}
    total, done, begin = len(batches) * len(ways), 0, 0
    with inference(model):
        for batch in batches:
            text_B = np.arange(begin, begin := begin + len(batch.tokens))
            for name, way in ways.items():
                found = measured_by(way(text_B)).losses(model, batch, check=False)
                nll_BT, real_BT, first = found.nll_BT, found.real_BT, model.config.segment
                counted = (nll_BT[:, first:], nll_BT, real_BT[:, first:], real_BT)
                sums[name][:, text_B] = [each.sum(axis=1) for each in counted]
                on_progress(done := done + 1, total)
    return {
        name: TextLosses(each[0], each[1], each[2].astype(np.int64), each[3].astype(np.int64))
        for name, each in sums.items()
    }


def compared(losses: Mapping[str, TextLosses], own: str, shown: str, read: str) -> list[PerText]:
    """The loss in each way, and the difference of each to the loss with the text's own: where it reads, and overall.

    own: the way that shows the text its own.  shown: what differs between the ways.  read: what it is made of.
    """
    true = losses[own]
    reading = {name: one.reading_N for name, one in losses.items()}
    overall = {name: one.overall_N for name, one in losses.items()}
    return [
        *_differences(reading, true.reading_tokens_N, own, shown, f"nats per token that reads {read}", ""),
        *_differences(overall, true.tokens_N, own, shown, "nats per token", ", all tokens"),
    ]


def donors(owner_N: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """For each text the nearest before it that belongs to another document, or else behind it; -1 where none does.

    owner_N: the document of each text, longest texts first; so nearly every text is lent at least as many thoughts as
    it has, of a text of about its length.
    """
    number_N = np.arange(len(owner_N))
    differs_N = owner_N[1:] != owner_N[:-1]
    before_N = np.maximum.accumulate(np.concatenate([[-1], np.where(differs_N, number_N[:-1], -1)]).astype(np.int64))
    ahead_N = np.concatenate([np.where(differs_N, number_N[1:], len(owner_N)), [len(owner_N)]]).astype(np.int64)
    behind_N = np.minimum.accumulate(ahead_N[::-1])[::-1]
    lent_N = np.where(before_N >= 0, before_N, np.where(behind_N < len(owner_N), behind_N, -1))
    return lent_N[: len(owner_N)]


def complete_segments(batch: Batch, size: int) -> npt.NDArray[np.int64]:
    """How many segments of that many tokens each row completes; its last token is a target alone, padding is behind."""
    count_B: npt.NDArray[np.int64] = (batch.documents[:, 1:] >= 0).sum(axis=1) // size
    return count_B


def _differences(
    nll_N: Mapping[str, npt.NDArray[np.float64]],
    count_N: npt.NDArray[np.int64],
    own: str,
    shown: str,
    unit: str,
    where: str,
) -> list[PerText]:
    sums = {f"loss, {name} {shown}{where}": nats_N for name, nats_N in nll_N.items()}
    others = [name for name in nll_N if name != own]
    sums |= {f"{name} - {own}{where}": nll_N[name] - nll_N[own] for name in others}
    return [PerText(name, unit, nats_N.tolist(), count_N.tolist(), is_share=False) for name, nats_N in sums.items()]
