"""Held-out texts read for their thoughts, and for what they lose when they are shown other ones.

Shapes: B rows, P some of them, T targets, N texts, X numbers of a thought.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from dreamlm.core.evaluation.interventions import Intervened, Intervention, stack_of
from dreamlm.core.evaluation.likelihood import Likelihood
from dreamlm.core.evaluation.reading import Reading
from dreamlm.core.evaluation.score import no_progress
from dreamlm.core.evaluation.thought_metrics import Trajectory
from dreamlm.core.inference import inference
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.nn.vision.view import sight_of
from dreamlm.core.types import Batch, Documents


@dataclass(frozen=True)
class HeldOutThoughts:
    """The thoughts that each text leaves behind, one for each of its complete segments."""

    texts: Sequence[Trajectory]
    owner_N: npt.NDArray[np.int64]
    """The document that each text belongs to."""
    numbers: int
    """X."""


@dataclass(frozen=True)
class StackLosses:
    """Nats of each text with one kind of stack."""

    reading_N: npt.NDArray[np.float64]
    """Sum over the tokens that are predicted with a thought in sight: those behind the first segment."""
    overall_N: npt.NDArray[np.float64]
    """Sum over all tokens."""
    reading_tokens_N: npt.NDArray[np.int64]
    tokens_N: npt.NDArray[np.int64]


def collected(
    model: DreamLM,
    module: str,
    documents: Documents,
    rows: int,
    on_progress: Callable[[int, int], None] = no_progress,
) -> HeldOutThoughts:
    """The thoughts of held-out documents; on_progress gets batches done and in all.

    module: name of the `thought_stack`.  Segments that a text does not complete have no thought, whatever is behind
    them; its last token is a target alone.
    """
    size, batches = model.config.segment, documents.batches(rows)
    texts: list[Trajectory] = []
    numbers = int(np.prod(stack_of(model.start(1), module).ordered().shape[2:]))
    with inference(model):
        for done, batch in enumerate(batches):
            tokens_BX = torch.from_numpy(batch.tokens).to(model.device)
            documents_BX = torch.from_numpy(batch.documents).to(model.device)
            view = model.look(sight_of(batch, model.device))
            carry = model.start(len(tokens_BX))
            signals = model.segments(tokens_BX[:, :-1], documents_BX[:, :-1], carry, view=view)
            newest = [stack_of(signal.carry, module).ordered()[:, -1].flatten(1) for signal in signals]
            newest_BNX = torch.stack(newest, dim=1).cpu().double().numpy()
            complete_B = _targets(batch) // size
            texts += [each[:count] for each, count in zip(newest_BNX, complete_B, strict=True)]
            on_progress(done + 1, len(batches))
    return HeldOutThoughts(texts, documents.owner_N, numbers)


def ablated(
    model: DreamLM,
    module: str,
    documents: Documents,
    rows: int,
    interventions: Sequence[Intervention],
    measured_by: Callable[[Reading], Likelihood],
    on_progress: Callable[[int, int], None] = no_progress,
) -> dict[str, StackLosses]:
    """The loss of every text with each stack; on_progress gets passes over a batch done and in all.

    measured_by: a likelihood whose texts are read in the given way; it draws the same for the same text, so that all
    that differs is the stack.
    """
    batches = documents.batches(rows)
    sums: dict[str, npt.NDArray[np.float64]] = {
        one.name: np.zeros((4, len(documents.owner_N))) for one in interventions
    }
    total, done, begin = len(batches) * len(interventions), 0, 0
    with inference(model):
        for batch in batches:
            text_B = np.arange(begin, begin := begin + len(batch.tokens))
            for one in interventions:
                found = measured_by(Intervened(module, one, text_B)).losses(model, batch, check=False)
                nll_BT, real_BT, first = found.nll_BT, found.real_BT, model.config.segment
                counted = (nll_BT[:, first:], nll_BT, real_BT[:, first:], real_BT)
                sums[one.name][:, text_B] = [each.sum(axis=1) for each in counted]
                on_progress(done := done + 1, total)
    return {
        name: StackLosses(each[0], each[1], each[2].astype(np.int64), each[3].astype(np.int64))
        for name, each in sums.items()
    }


def _targets(batch: Batch) -> npt.NDArray[np.int64]:
    """How many real targets each row has; padding is behind them."""
    count_B: npt.NDArray[np.int64] = (batch.documents[:, 1:] >= 0).sum(axis=1)
    return count_B
