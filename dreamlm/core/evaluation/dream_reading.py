"""Held-out texts read for what a `dreaming` module makes of each of their segments.

Shapes: B rows, U texts, X = T + 1 tokens of a window, S tokens of a segment; K complete segments of a text; N dreams,
L steps, C width of a dream, V = 3 * L * C numbers of a whole dream, G = N * L nodes, E experts, Y types of edges.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dreamlm.core.evaluation.ablation import complete_segments
from dreamlm.core.evaluation.score import no_progress
from dreamlm.core.inference import inference
from dreamlm.core.modules.dreaming.dreaming import Dreaming
from dreamlm.core.modules.state import ModuleState
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.nn.vision.view import sight_of
from dreamlm.core.types import Batch, Documents

READ = "reasoning"
"""What of a dreaming module's memory tokens read."""


@dataclass(frozen=True, eq=False)
class TextDreams:
    """What one text dreamt, segment after segment; single precision."""

    read_KGC: npt.NDArray[np.float32]
    """What the next segment's tokens read."""
    reversed_KGC: npt.NDArray[np.float32]
    """What they would read if the segment's vectors had come in reversed order, behind the text's own memory."""
    roles_K3C: npt.NDArray[np.float32]
    dreams_KNV: npt.NDArray[np.float32]
    gate_KNE: npt.NDArray[np.float32]
    """Weight of each expert; 0 where it was not chosen."""
    edges_KY: npt.NDArray[np.float32]
    """Sum over all edges of the share that each type has of them."""


@dataclass(frozen=True)
class HeldOutDreams:
    """What held-out texts dreamt. Holds 4 * (5 * G * C + 3 * C + N * E + Y) bytes for each segment."""

    texts: Sequence[TextDreams]
    owner_U: npt.NDArray[np.int64]
    """The document that each text belongs to."""

    @property
    def segments(self) -> int:
        return sum(len(text.gate_KNE) for text in self.texts)

    @property
    def shape(self) -> tuple[int, int]:
        """Dreams of a segment, and experts."""
        return self.texts[0].gate_KNE.shape[1:]

    def means(self) -> list[npt.NDArray[np.float32]]:
        """(G, C) after each number of segments: the mean of what texts dreamt, of those that have as many."""
        read = [text.read_KGC for text in self.texts]
        most = max(len(one_KGC) for one_KGC in read)
        return [_mean([one_KGC[number] for one_KGC in read if len(one_KGC) > number]) for number in range(most)]


def dreaming_of(model: DreamLM, module: str) -> Dreaming:
    """The dreaming module of that name."""
    (found,) = (one for one in model.cognition if isinstance(one, Dreaming) and one.name == module)
    return found


def collected(
    model: DreamLM,
    module: str,
    documents: Documents,
    rows: int,
    on_progress: Callable[[int, int], None] = no_progress,
) -> HeldOutDreams:
    """The dreams of held-out documents, one text at least; on_progress gets batches done and in all.

    module: name of the `dreaming` module.  Segments that a text does not complete are not dreamt of.
    Cost: beside the reading, each segment is dreamt of a second time, reversed.
    """
    dreaming, batches = dreaming_of(model, module), documents.batches(rows)
    texts: list[TextDreams] = []
    with inference(model):
        for done, batch in enumerate(batches):
            texts += _dreamt(model, dreaming, batch)
            on_progress(done + 1, len(batches))
    return HeldOutDreams(texts, documents.owner_N)


def _dreamt(model: DreamLM, dreaming: Dreaming, batch: Batch) -> list[TextDreams]:
    size = model.config.segment
    tokens_BX = torch.from_numpy(batch.tokens).to(model.device)
    documents_BT = torch.from_numpy(batch.documents).to(model.device)[:, :-1]
    carry, view = model.start(len(tokens_BX)), model.look(sight_of(batch, model.device))
    incoming: list[Tensor] = []
    watch = dreaming.register_forward_pre_hook(lambda _, given: incoming.append(given[0].hidden))
    try:
        signals = [*model.segments(tokens_BX[:, :-1], documents_BT, carry, view=view)]
    finally:
        watch.remove()
    before: ModuleState = carry.states[dreaming.name]
    # The first stands for what there is without any segment, so that even such texts have all shapes.
    memories, turned = [before.memory], [before.memory[READ]]
    for number in range(documents_BT.shape[1] // size):
        own_BS = documents_BT[:, number * size : (number + 1) * size] >= 0
        turned.append(dreaming.write(before.seen, incoming[number].flip(1), own_BS.flip(1)).memory[READ])
        before = signals[number].carry.states[dreaming.name]
        memories.append(before.memory)

    def behind_segments(values: Sequence[Tensor]) -> npt.NDArray[np.float32]:
        stacked_BK: npt.NDArray[np.float32] = torch.stack(list(values), dim=1)[:, 1:].float().cpu().numpy()
        return stacked_BK

    parts = (
        behind_segments([memory[READ] for memory in memories]),
        behind_segments(turned),
        behind_segments([memory["roles"] for memory in memories]),
        behind_segments([memory["dreams"].flatten(2) for memory in memories]),
        behind_segments([memory["gate"] for memory in memories]),
        behind_segments([memory["edges"].sum(dim=(1, 2)) for memory in memories]),
    )
    complete_B = complete_segments(batch, size).tolist()
    return [TextDreams(*(part[row, :count] for part in parts)) for row, count in enumerate(complete_B)]


def _mean(read: Sequence[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
    mean_GC: npt.NDArray[np.float64] = np.mean(read, axis=0, dtype=np.float64)
    return mean_GC.astype(np.float32)
