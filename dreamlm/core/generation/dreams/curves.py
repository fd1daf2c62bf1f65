"""Where an edge runs between the boxes of two nodes, so that it crosses no other box of its row or column.

    the next step or dream      straight, a little aside, so that there and back lie beside one another
    further along a dream       above the boxes, backwards below them
    further between dreams      left of the boxes downwards, right of them upwards
    anything else               straight, with a slight bow

Lengths are inches, y grows downwards.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dreamlm.core.generation.dreams.values import Edge

if TYPE_CHECKING:
    from matplotlib.path import Path

BOX_WIDTH, BOX_HEIGHT = 1.05, 0.56
"""Of a node."""
ASIDE, HEAD = 0.16, 0.1
"""From the middle of a side to a straight edge; of an arrow's head."""

Point = tuple[float, float]


@dataclass(frozen=True)
class Curve:
    """An arrow."""

    line: "Path"
    head: "Path"


def curve(edge: Edge, source: Point, target: Point) -> Curve:
    """The arrow of an edge between nodes whose boxes have these centres."""
    (x, y), (to_x, to_y) = source, target
    steps, dreams = edge.target.step - edge.source.step, edge.target.dream - edge.source.dream
    right, down = (1 if steps > 0 else -1), (1 if dreams > 0 else -1)
    half_width, half_height = BOX_WIDTH / 2, BOX_HEIGHT / 2
    if dreams == 0 and steps == 0:
        corner = (x + half_width, y - half_height)
        return _bowed((corner[0] - 0.2, corner[1]), (corner[0] + 0.3, corner[1] - 0.3), (corner[0], corner[1] + 0.2))
    if dreams == 0 and abs(steps) == 1:
        beside = y - right * ASIDE / 2
        return _straight((x + right * half_width, beside), (to_x - right * half_width, beside))
    if steps == 0 and abs(dreams) == 1:
        beside = x - down * ASIDE
        return _straight((beside, y + down * half_height), (beside, to_y - down * half_height))
    if dreams == 0:
        side = -right * half_height
        middle = ((x + to_x) / 2, y + side - right * (0.2 + 0.06 * abs(steps)))
        return _bowed((x + right * 0.3, y + side), middle, (to_x - right * 0.3, to_y + side))
    if steps == 0:
        side = -down * half_width
        middle = (x + side - down * (0.3 + 0.14 * abs(dreams)), (y + to_y) / 2)
        return _bowed((x + side, y + down * 0.14), middle, (x + side, to_y - down * 0.14))
    way = (to_x - x, to_y - y)
    share = min(half_width / abs(way[0]), half_height / abs(way[1]))
    begin, end = (x + share * way[0], y + share * way[1]), (to_x - share * way[0], to_y - share * way[1])
    middle = ((x + to_x) / 2 + 0.08 * way[1], (y + to_y) / 2 - 0.08 * way[0])
    return _bowed(begin, middle, end)


def _straight(begin: Point, end: Point) -> Curve:
    return _bowed(begin, ((begin[0] + end[0]) / 2, (begin[1] + end[1]) / 2), end)


def _bowed(begin: Point, middle: Point, end: Point) -> Curve:
    """A quadratic Bezier curve and a triangle at its end, which points as the curve does."""
    from matplotlib.path import Path

    way = (end[0] - middle[0], end[1] - middle[1])
    length = (way[0] ** 2 + way[1] ** 2) ** 0.5
    x, y = way[0] / length * HEAD, way[1] / length * HEAD
    neck = (end[0] - x, end[1] - y)
    wings = [(neck[0] - 0.4 * y, neck[1] + 0.4 * x), (neck[0] + 0.4 * y, neck[1] - 0.4 * x)]
    line = Path([begin, middle, neck], [Path.MOVETO, Path.CURVE3, Path.CURVE3])
    return Curve(line, Path([end, *wings, end], [Path.MOVETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY]))
