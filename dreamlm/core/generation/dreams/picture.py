"""Dreams drawn as one picture: a graph for each segment, dreams from top to bottom, their steps from left to right.

An edge has the colour of its type and is as wide as it is strong; `curves.py` says where it runs. Lengths are inches.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import cycle
from typing import TYPE_CHECKING, Any

from dreamlm.core.generation.dreams.curves import BOX_HEIGHT, BOX_WIDTH, curve
from dreamlm.core.generation.dreams.lettering import Lettering
from dreamlm.core.generation.dreams.values import (
    Dream,
    DreamGraph,
    DreamRecord,
    DreamtSegment,
    Node,
    Triplet,
    title,
    visible,
)
from dreamlm.core.modules.dreaming.edges import edge_type_names

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, MUTED, PAPER, BAR = "#222222", "#777777", "#f6f3ec", "#b9b2a3"
COLOURS = ("#3b6ea8", "#d08a3c", "#4f9a64", "#9a5fa8", "#b8505a", "#3f9aa0")
"""Of edge types; further ones begin anew."""
DOTS_PER_INCH, MOST_INCHES = 110, 180.0
"""A picture is at most so high; the graphs that there is no room for are left out, and the picture says how many."""
GUTTER, COLUMN, HEAD, ROW, MARGIN = 2.0, 2.1, 0.8, 1.05, 0.2
"""Left of the first step, of a step, above the first dream, of a dream, around everything."""
LEGEND, LEGEND_ROW, STROKE = 0.8, 0.22, 0.55
"""Above the first graph without the names of types, of a row of those, beside each name."""
SMALL = 8.5
"""Points of the legend."""
LEAST_WIDTH = 9.0
EXPERTS = 4
"""Of a dream's experts so many of the heaviest are named."""


@dataclass(frozen=True)
class Entry:
    """One graph, and what stands above it."""

    title: str
    passage: str
    graph: DreamGraph

    @property
    def steps(self) -> int:
        return len(self.graph.dreams[0].steps)

    @property
    def height(self) -> float:
        return HEAD + ROW * len(self.graph.dreams)


def entries_of(number: int, segment: DreamtSegment) -> list[Entry]:
    """The graphs of a segment of the text of that number, one for each module that dreamt."""
    return [
        Entry(f"{title(number, segment)}, {name}", " ".join(segment.text.split()), graph)
        for name, graph in segment.graphs.items()
    ]


def draw_record(record: DreamRecord) -> bytes:
    """One PNG of all graphs that there is room for."""
    found = [
        entry
        for number, text in enumerate(record.texts)
        for segment in text.segments
        for entry in entries_of(number, segment)
    ]
    room, fitting = MOST_INCHES - _legend_height(_legend_rows(found, LEAST_WIDTH)) - 2 * MARGIN, 0
    for entry in found:
        room -= entry.height
        fitting += room >= 0
    shown = found[:fitting]
    of = f"the first {len(shown):,} of {len(found):,}" if len(shown) < len(found) else f"{len(found):,}"
    return draw(shown, f"{of} graph{'' if len(found) == 1 else 's'} of dreams")


def draw(entries: Sequence[Entry], heading: str) -> bytes:
    """A PNG of some graphs below one another."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # half a second of import time

    steps = max((entry.steps for entry in entries), default=1)
    width = max(LEAST_WIDTH, 2 * MARGIN + GUTTER + COLUMN * steps)
    legend = _legend_rows(entries, width)
    height = _legend_height(legend) + sum(entry.height for entry in entries) + 2 * MARGIN
    figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH)
    FigureCanvasAgg(figure)
    _Page(figure, width, height).fill(entries, heading, legend)
    png = BytesIO()
    figure.savefig(png, format="png")
    return png.getvalue()


def _legend_rows(entries: Sequence[Entry], width: float) -> list[list[str]]:
    """The types of all edges, as many beside one another as there is room for."""
    most = max((len(edge.shares) for entry in entries for edge in entry.graph.edges[:1]), default=0)
    letters, room = Lettering(), width - 2 * MARGIN
    rows: list[list[str]] = []
    taken = room
    for name in edge_type_names(most):
        needed = STROKE + letters.width(name, SMALL)
        if taken + needed > room:
            rows.append([])
            taken = 0.0
        rows[-1].append(name)
        taken += needed
    return rows


def _legend_height(rows: Sequence[Sequence[str]]) -> float:
    return LEGEND + LEGEND_ROW * len(rows)


class _Page:
    """A sheet on which lengths are inches from the upper left corner."""

    def __init__(self, figure: "Figure", width: float, height: float) -> None:
        self._axes: Any = figure.add_axes((0, 0, 1, 1))
        self._axes.set_xlim(0, width)
        self._axes.set_ylim(height, 0)
        self._axes.axis("off")
        self._width, self._letters = width, Lettering()

    def fill(self, entries: Sequence[Entry], heading: str, legend: Sequence[Sequence[str]]) -> None:
        """legend: the names of types, by rows."""
        self._legend(heading, legend)
        top = _legend_height(legend) + MARGIN
        for entry in entries:
            self._entry(entry, top)
            top += entry.height

    def _legend(self, heading: str, rows: Sequence[Sequence[str]]) -> None:
        self._write(MARGIN, 0.3, heading, size=12, weight="bold")
        said = "a box: what, action, result of a step; an edge: its type, the wider, the larger that type's share"
        self._write(MARGIN, 0.6, said, size=SMALL, colour=MUTED)
        colours = cycle(COLOURS)
        for row, names in enumerate(rows):
            left, middle = MARGIN, LEGEND + LEGEND_ROW * (row + 0.3)
            for name, colour in zip(names, colours, strict=False):
                self._axes.plot([left, left + 0.3], [middle, middle], color=colour, linewidth=2.5)
                self._write(left + 0.37, middle, name, size=SMALL, colour=MUTED)
                left += STROKE + self._letters.width(name, SMALL)

    def _entry(self, entry: Entry, top: float) -> None:
        self._axes.plot([MARGIN, self._width - MARGIN], [top, top], color=MUTED, linewidth=0.5)
        self._write(MARGIN, top + 0.2, entry.title, size=10, weight="bold")
        self._write(MARGIN, top + 0.42, f"“{entry.passage}”", size=9, colour=MUTED)
        self._write(MARGIN, top + 0.63, f"it begins from   {_said(entry.graph.roles)}", size=8.5)
        first = top + HEAD + ROW / 2
        for number, dream in enumerate(entry.graph.dreams):
            self._gate(number, dream, first + ROW * number)
        places = {
            Node(number, step): (MARGIN + GUTTER + COLUMN * (step + 0.5), first + ROW * number)
            for number, dream in enumerate(entry.graph.dreams)
            for step in range(len(dream.steps))
        }
        self._edges(entry.graph, places)
        for node, place in places.items():
            self._box(entry.graph.dreams[node.dream].steps[node.step], place)

    def _gate(self, number: int, dream: Dream, middle: float) -> None:
        """The name of a dream, and a bar for each of its heaviest experts."""
        heaviest = sorted(range(len(dream.gate)), key=lambda expert: -dream.gate[expert])[:EXPERTS]
        chosen = [expert for expert in heaviest if dream.gate[expert] > 0]
        line = middle - 0.09 * len(chosen)
        self._write(MARGIN, line, f"dream {number + 1}", size=9, weight="bold")
        for place, expert in enumerate(chosen, start=1):
            weight, below = dream.gate[expert], line + 0.18 * place
            self._write(MARGIN, below, f"expert {expert + 1}", size=7.5, colour=MUTED)
            self._axes.barh(below, 0.7 * weight, left=MARGIN + 0.55, height=0.1, color=BAR)
            self._write(MARGIN + 0.6 + 0.7 * weight, below, f"{weight:.2f}", size=7.5, colour=MUTED)

    def _edges(self, graph: DreamGraph, places: Mapping[Node, tuple[float, float]]) -> None:
        from matplotlib.collections import PathCollection

        # The strongest come last and lie above the others.
        ordered = sorted(graph.edges, key=lambda edge: edge.strength)
        curves = [curve(edge, places[edge.source], places[edge.target]) for edge in ordered]
        colours = [(COLOURS[edge.kind % len(COLOURS)], 0.3 + 0.65 * edge.strength) for edge in ordered]
        widths = [0.4 + 2.6 * edge.strength for edge in ordered]
        self._axes.add_collection(
            PathCollection([one.line for one in curves], facecolors="none", edgecolors=colours, linewidths=widths)
        )
        self._axes.add_collection(PathCollection([one.head for one in curves], facecolors=colours, linewidths=0))

    def _box(self, triplet: Triplet, place: tuple[float, float]) -> None:
        from matplotlib.patches import FancyBboxPatch

        x, y = place
        corner, style = (x - BOX_WIDTH / 2, y - BOX_HEIGHT / 2), "round,pad=0,rounding_size=0.07"
        box = FancyBboxPatch(corner, BOX_WIDTH, BOX_HEIGHT, style, fc=PAPER, ec=MUTED, lw=0.6, zorder=3)
        self._axes.add_patch(box)
        for line, nearest in enumerate(triplet.roles.values(), start=-1):
            word = self._letters.fitted(visible(nearest[0].token), 7.5, BOX_WIDTH - 0.1)
            self._write(x, y + 0.16 * line, word, size=7.5, align="center")

    def _write(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: float,
        colour: str = INK,
        weight: str = "normal",
        align: str = "left",
    ) -> None:
        room = self._width - MARGIN - x if align == "left" else self._width
        self._axes.text(
            x, y, self._letters.fitted(text, size, room), fontsize=size, color=colour, fontweight=weight, ha=align,
            va="center", parse_math=False, fontfamily=self._letters.family, zorder=4,
        )  # fmt: skip


def _said(triplet: Triplet) -> str:
    words = {role: ", ".join(visible(one.token) for one in nearest) for role, nearest in triplet.roles.items()}
    return "   ".join(f"{role}: {named}" for role, named in words.items())
