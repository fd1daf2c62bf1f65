"""From what dreaming modules leave in the carry to dreams in words.

Shapes: R texts, N dreams, L steps of a dream, E experts, C width of dreams, P edges; G = N * L nodes are the
steps of all dreams, Y are the types of edges.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from dreamlm.core.errors import UserMistake
from dreamlm.core.generation.dreams.neighbours import Neighbourhood, readable_tokens
from dreamlm.core.generation.dreams.values import Dream, DreamGraph, DreamtSegment, Edge, Neighbour, Node, Triplet
from dreamlm.core.generation.segments import CompletedSegments
from dreamlm.core.modules.dreaming.dreaming import Dreaming
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.tokenizer import Tokenizer
from dreamlm.core.training.precision import native_bf16


@final
class DreamCollector:
    """Puts the dreams of completed segments into words, for `generate(on_segments=...)`. It looks at the carry only."""

    def __init__(
        self,
        model: DreamLM,
        tokenizer: Tokenizer,
        count: int,
        on_dreamt: Callable[[DreamtSegment], None],
        step_count: int | None = None,
    ) -> None:
        """count: nearest tokens of each role.  on_dreamt: called with each segment.

        step_count: of each role of a dream's steps; None is `count`.

        Raises: UserMistake when no module of the model dreams.
        """
        modules = [module for module in model.cognition if isinstance(module, Dreaming)]
        if not modules:
            names = ", ".join(model.config.module_names)
            raise UserMistake(
                f"this model does not dream: {f'its modules are {names}' if names else 'it has no modules'}",
                valid=['models whose preset has {"type": "dreaming"} in model.modules'],
                hint="dreamlm presets list shows presets that dream",
            )
        tokens = readable_tokens(tokenizer)
        quick = torch.bfloat16 if native_bf16(model.device) else torch.float32
        with torch.inference_mode():
            named_VD = model.embedding.weight[list(tokens)]
            self._modules = {
                module.name: Neighbourhood(module.pooling.distinctive(named_VD, quick), tokens) for module in modules
            }
        self._tokenizer, self._on_dreamt = tokenizer, on_dreamt
        self._count, self._step_count = count, step_count or count

    def __call__(self, completed: CompletedSegments) -> None:
        row_R = torch.tensor(completed.rows, device=completed.carry.last_document_B.device)
        graphs = {}
        for name, near in self._modules.items():
            memory = completed.carry.states[name].memory
            graphs[name] = self._graphs({key: memory[key][row_R] for key in Dreaming.shown}, near)
        for place, passage in enumerate(completed.passages):
            found = {name: graphs_R[place] for name, graphs_R in graphs.items()}
            self._on_dreamt(DreamtSegment(passage, self._text(passage.token_ids), found))

    def _text(self, token_ids: Sequence[int]) -> str:
        """The tokens as people read them; places of a picture have no text."""
        text = self._tokenizer.decode([token for token in token_ids if token >= 0])
        return f"[picture] {text}" if min(token_ids) < 0 else text

    def _graphs(self, memory: Mapping[str, Tensor], near: Neighbourhood) -> list[DreamGraph]:
        """What the memory of each text holds; the nearest tokens of all steps come from one product."""
        dreams_RNL3C = memory["dreams"]
        roles = iter(near.nearest(memory["roles"].flatten(0, 1), self._count))
        steps = iter(near.nearest(dreams_RNL3C.flatten(0, 3), self._step_count))
        length = dreams_RNL3C.shape[2]
        gates, edges = memory["gate"].tolist(), _edges(memory["edges"], length)
        return [
            DreamGraph(_triplet(roles), tuple(_dream(steps, gate_E, length) for gate_E in gate_NE), between)
            for gate_NE, between in zip(gates, edges, strict=True)
        ]


def _dream(named: Iterator[tuple[Neighbour, ...]], gate_E: list[float], length: int) -> Dream:
    """The dream whose steps have the next names."""
    return Dream(tuple(gate_E), tuple(_triplet(named) for _ in range(length)))


def _triplet(named: Iterator[tuple[Neighbour, ...]]) -> Triplet:
    return Triplet(next(named), next(named), next(named))


def _edges(share_RGGY: Float[Tensor, "R G G Y"], steps: int) -> list[tuple[Edge, ...]]:
    """The edges of each text by source, then by target."""
    nodes = [Node(*divmod(number, steps)) for number in range(share_RGGY.shape[1])]
    place_P3 = share_RGGY.amax(dim=3).nonzero()
    shares = share_RGGY[place_P3.unbind(1)].tolist()
    found: list[list[Edge]] = [[] for _ in share_RGGY]
    for (row, source, target), share_Y in zip(place_P3.tolist(), shares, strict=True):
        found[row].append(Edge(nodes[source], nodes[target], tuple(share_Y)))
    return [tuple(edges) for edges in found]
