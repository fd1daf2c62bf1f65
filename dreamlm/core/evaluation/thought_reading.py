"""Held-out texts read for their thoughts.

Shapes: B rows, N texts, X numbers of a thought.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from dreamlm.core.evaluation.ablation import complete_segments
from dreamlm.core.evaluation.score import no_progress
from dreamlm.core.evaluation.thought_interventions import stack_of
from dreamlm.core.evaluation.trajectory import Trajectory
from dreamlm.core.inference import inference
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.nn.vision.view import sight_of
from dreamlm.core.types import Documents


@dataclass(frozen=True)
class HeldOutThoughts:
    """The thoughts that each text leaves behind, one for each of its complete segments."""

    texts: Sequence[Trajectory]
    owner_N: npt.NDArray[np.int64]
    """The document that each text belongs to."""
    numbers: int
    """X."""


def collected(
    model: DreamLM,
    module: str,
    documents: Documents,
    rows: int,
    on_progress: Callable[[int, int], None] = no_progress,
) -> HeldOutThoughts:
    """The thoughts of held-out documents; on_progress gets batches done and in all.

    module: name of the `thought_stack`.  Segments that a text does not complete have no thought, whatever is behind
    them.
    """
    batches = documents.batches(rows)
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
            complete_B = complete_segments(batch, model.config.segment)
            texts += [each[:count] for each, count in zip(newest_BNX, complete_B, strict=True)]
            on_progress(done + 1, len(batches))
    return HeldOutThoughts(texts, documents.owner_N, numbers)
