"""Dreams whose every word, weight and edge is known."""

from dreamlm.core.generation.dreams.values import (
    Dream,
    DreamGraph,
    DreamRecord,
    DreamtSegment,
    DreamtText,
    Edge,
    Neighbour,
    Node,
    Triplet,
)
from dreamlm.core.generation.segments import Passage

WORDS = (" sea", "calm", "\n", " naïve", "漢字", "<b>&\x0b", "WWWWWWWWWWWWWWWWWWWWWWWW", "$x^2$", "  ")
"""Words, and what is hard to show."""


def triplet(first: int) -> Triplet:
    """Two neighbours for each role, the words from that one on."""
    ids = [(first + place) % len(WORDS) for place in range(6)]
    found = [Neighbour(id, WORDS[id], 0.9 - 0.25 * place) for place, id in enumerate(ids)]
    return Triplet((found[0], found[1]), (found[2], found[3]), (found[4], found[5]))


def graph(dreams: int = 2, steps: int = 2, types: int = 4) -> DreamGraph:
    """Edges from each step to the next, and both ways between equal steps of different dreams."""
    nodes = [Node(dream, step) for dream in range(dreams) for step in range(steps)]
    pairs = [
        (source, target)
        for source in nodes
        for target in nodes
        if (source.dream == target.dream and source.step + 1 == target.step)
        or (source.dream != target.dream and source.step == target.step)
    ]
    edges = [Edge(*pair, _shares(number, types)) for number, pair in enumerate(pairs)]
    made = [
        Dream((0.0, 0.75, 0.25), tuple(triplet(dream * steps + step) for step in range(steps)))
        for dream in range(dreams)
    ]
    return DreamGraph(triplet(3), tuple(made), tuple(edges))


def record(segments: int = 2, interrupted: bool = False, **sizes: int) -> DreamRecord:
    """One text whose prompt ends in its second segment, and one without dreams."""
    dreamt = []
    for number in range(segments):
        passage = Passage(0, 0, number, 4 * number, (5, 6, 7, 8), min(4, max(0, 6 - 4 * number)))
        dreamt.append(DreamtSegment(passage, "calm \x0b <sea>\nnight", {"dreaming": graph(**sizes)}))
    texts = (
        DreamtText("The <sea>", None if interrupted else " was calm", tuple(dreamt)),
        DreamtText("The", None if interrupted else "", ()),
    )
    return DreamRecord(texts, 4, "how near", interrupted)


def _shares(number: int, types: int) -> tuple[float, ...]:
    """The largest is 0.4 to 0.7, of each type in turn."""
    strength = 0.4 + 0.1 * (number % 4) if types > 1 else 1.0
    rest = (1 - strength) / max(1, types - 1)
    return tuple(strength if kind == number % types else rest for kind in range(types))
