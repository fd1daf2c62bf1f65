"""What `--show-dreams` shows of a segment, row by row."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dreamlm.cli.frame import Styled
    from dreamlm.core.generation.dreams.values import Dream, DreamGraph, DreamtSegment, Edge, Triplet

BAR = 10
"""Characters of a weight of 1."""
EDGES = 4
"""So many of the strongest are shown."""
SHOWN_OF_STEPS = 1
"""So many of the nearest tokens of each role of a step are shown."""

PanelRow = tuple[str, "Sequence[Styled]"]


def panels(number: int, segment: "DreamtSegment") -> Iterator[tuple[str, list[PanelRow]]]:
    """Title and rows for each module that dreamt of a segment of the text of that number."""
    from dreamlm.core.generation.dreams.values import title, without_controls

    said = without_controls(" ".join(segment.text.split()))
    for name, graph in segment.graphs.items():
        yield f"{title(number, segment)}, {name}", [("text", [(f"“{said}”", "italic")]), *_graph(graph)]


def _graph(graph: "DreamGraph") -> Iterator[PanelRow]:
    yield from _roles(graph.roles)
    for number, dream in enumerate(graph.dreams, start=1):
        yield f"dream {number}", [*_gate(dream)]
        yield "", [*_steps(dream)]
    if graph.edges:
        yield "edges", [piece for edge in graph.strongest(EDGES) for piece in _edge(edge)]


def _roles(roles: "Triplet") -> Iterator[PanelRow]:
    """What the dreams began from: the nearest tokens of each role, nearest first."""
    from dreamlm.core.generation.dreams.values import visible

    for role, nearest in roles.roles.items():
        first, *others = (visible(one.token) for one in nearest)
        yield role, [(f"{first} ", ""), (" ".join(others), "dim")]


def _gate(dream: "Dream") -> Iterator["Styled"]:
    chosen = [(weight, expert) for expert, weight in enumerate(dream.gate, start=1) if weight > 0]
    for weight, expert in sorted(chosen, reverse=True):
        yield f"expert {expert} ", "dim"
        yield "█" * max(1, round(BAR * weight)), "cyan"
        yield f" {weight:.2f}  ", "dim"


def _steps(dream: "Dream") -> Iterator["Styled"]:
    for step, triplet in enumerate(dream.steps, start=1):
        yield f"{step} ", "dim"
        yield f"{triplet.label}  ", ""


def _edge(edge: "Edge") -> Iterator["Styled"]:
    yield f"{edge.source.label} → {edge.target.label} ", ""
    yield f"{edge.type} {edge.strength:.2f}  ", "dim"
