"""Each step, edge and weight of a dream is drawn where it belongs, as the figure says before it is saved."""

import re
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise

import pytest
from dreams_by_hand import graph, record
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

from dreamlm.core.generation.dreams.curves import BOX_HEIGHT, BOX_WIDTH
from dreamlm.core.generation.dreams.lettering import Lettering
from dreamlm.core.generation.dreams.page import html
from dreamlm.core.generation.dreams.picture import draw, draw_record, entries_of
from dreamlm.core.generation.dreams.values import DreamRecord, Edge, Node, Triplet, visible
from dreamlm.core.modules.dreaming.edges import edge_type_names

TYPES = 12
"""More than there are colours, and than a row of the legend has room for."""
HEAVIEST = {(0.0, 0.75, 0.25): (1, 2), (0.05, 0.3, 0.15, 0.4, 0.1): (3, 1, 2, 4), (0.0, 0.0, 1.0): (2,)}
"""By gates, the experts that a picture has bars for."""
LARGE, SMALL = graph(dreams=3, steps=3, types=TYPES), graph(dreams=2, steps=2, types=TYPES)
OTHERS = zip(reversed(SMALL.dreams), list(HEAVIEST)[1:], strict=True)
GRAPHS = (LARGE, replace(SMALL, dreams=tuple(replace(dream, gate=gate) for dream, gate in OTHERS)))

Step = tuple[int, Node]
"""With the number of its graph."""
Boxes = Mapping[Step, FancyBboxPatch]
Arrows = Mapping[tuple[Step | None, Step | None], tuple[tuple[float, ...], float]]
"""Colour and width, by the steps whose boxes an arrow begins and ends at."""

STEPS: Mapping[Step, Triplet] = {
    (number, Node(row, column)): triplet
    for number, one in enumerate(GRAPHS)
    for row, dream in enumerate(one.dreams)
    for column, triplet in enumerate(dream.steps)
}
EDGES: Mapping[tuple[Step, Step], Edge] = {
    ((number, edge.source), (number, edge.target)): edge for number, one in enumerate(GRAPHS) for edge in one.edges
}


def dreamt() -> DreamRecord:
    """One of the graphs in each segment."""
    made = record(segments=len(GRAPHS))
    text = made.texts[0]
    segments = tuple(replace(one, graphs={"dreaming": GRAPHS[number]}) for number, one in enumerate(text.segments))
    return replace(made, texts=(replace(text, segments=segments), *made.texts[1:]))


@pytest.fixture(scope="module")
def axes() -> Axes:
    figures: list[Figure] = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
        draw_record(dreamt())
    [[found]] = [figure.axes for figure in figures]
    assert found.yaxis_inverted()
    return found


@pytest.fixture(scope="module")
def boxes(axes: Axes) -> Boxes:
    """From top to bottom, and from left to right."""
    found = [one for one in axes.patches if isinstance(one, FancyBboxPatch)]
    return dict(zip(STEPS, sorted(found, key=lambda one: (one.get_y(), one.get_x())), strict=True))


def step_at(point: tuple[float, float], boxes: Boxes) -> Step | None:
    """Whose box the point lies in, or on the border of."""
    return next((step for step, box in boxes.items() if box.get_bbox().padded(1e-6).contains(*point)), None)


@pytest.fixture(scope="module")
def arrows(axes: Axes, boxes: Boxes) -> Arrows:
    found = []
    for lines, heads in zip(axes.collections[::2], axes.collections[1::2], strict=True):
        looks = zip(lines.get_edgecolors(), heads.get_facecolors(), lines.get_linewidths(), strict=True)
        paths = zip(lines.get_paths(), heads.get_paths(), strict=True)
        for (line, head), (colour, head_colour, width) in zip(paths, looks, strict=True):
            tip, *wings, _ = head.vertices
            assert line.vertices[-1] == pytest.approx(sum(wings) / 2)
            assert tuple(colour) == tuple(head_colour)
            assert colour[3] > 0
            found.append(((step_at(line.vertices[0], boxes), step_at(tip, boxes)), (tuple(colour[:3]), width)))
    assert len(dict(found)) == len(found), "two arrows between the same boxes"
    return dict(found)


def test_each_step_has_a_box_with_its_own_words(axes: Axes, boxes: Boxes) -> None:
    words: dict[Step | None, list[str]] = {}
    for text in sorted(axes.texts, key=lambda one: one.get_position()[1]):
        words.setdefault(step_at(text.get_position(), boxes), []).append(text.get_text())
    for step, triplet in STEPS.items():
        nearest = [visible(near[0].token) for near in triplet.roles.values()]
        assert words[step] == [Lettering().fitted(word, 7.5, BOX_WIDTH - 0.1) for word in nearest]


def test_each_arrow_runs_from_the_box_of_its_source_to_that_of_its_target(arrows: Arrows) -> None:
    assert set(arrows) == set(EDGES)


def test_each_arrow_has_the_colour_of_its_type_in_the_legend(axes: Axes, arrows: Arrows) -> None:
    colours = {}
    for name in edge_type_names(TYPES):
        [(x, y)] = [text.get_position() for text in axes.texts if text.get_text() == name]
        strokes = [one for one in axes.lines if set(one.get_ydata()) == {y} and max(one.get_xdata()) < x]
        colours[name] = to_rgb(max(strokes, key=lambda one: max(one.get_xdata())).get_color())
    assert len({colours[name] for name in edge_type_names(6)}) == 6
    assert {ends: arrows[ends][0] for ends in EDGES} == {ends: colours[edge.type] for ends, edge in EDGES.items()}


def test_the_stronger_an_edge_the_wider_its_arrow(arrows: Arrows) -> None:
    widths = sorted({(round(edge.strength, 6), round(arrows[ends][1], 6)) for ends, edge in EDGES.items()})
    assert [strength for strength, _ in widths] == pytest.approx([0.4, 0.5, 0.6, 0.7]), "one width for each strength"
    assert all(thin < wide for (_, thin), (_, wide) in pairwise(widths))


def test_beside_each_dream_are_bars_as_long_as_its_weights(axes: Axes, boxes: Boxes) -> None:
    bars = sorted((one for one in axes.patches if isinstance(one, Rectangle)), key=lambda one: one.get_y())
    assert len({one.get_x() for one in bars}) == 1
    unit = max(one.get_width() for one in bars)
    drawn = []
    for bar in bars:
        middle = bar.get_y() + bar.get_height() / 2
        number, node = min(boxes, key=lambda step: abs(boxes[step].get_y() + BOX_HEIGHT / 2 - middle))
        beside = [one for one in axes.texts if one.get_position()[1] == pytest.approx(middle)]
        expert, weight = (one.get_text() for one in sorted(beside, key=lambda one: one.get_position()[0])[:2])
        drawn.append((number, node.dream, expert, weight, round(float(bar.get_width() / unit), 6)))
    assert drawn == [
        (number, row, f"expert {expert + 1}", f"{dream.gate[expert]:.2f}", dream.gate[expert])
        for number, one in enumerate(GRAPHS)
        for row, dream in enumerate(one.dreams)
        for expert in HEAVIEST[dream.gate]
    ]


def test_the_page_embeds_the_picture_of_each_segment() -> None:
    what = dreamt()
    embedded = [b64decode(one) for one in re.findall(r'src="data:image/png;base64,([^"]*)"', html(what))]
    segments = what.texts[0].segments
    assert embedded == [draw(entries_of(0, segment), "1 graph of dreams") for segment in segments]
    assert len(set(embedded)) == len(segments)
