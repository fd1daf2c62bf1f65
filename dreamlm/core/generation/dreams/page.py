"""Dreams as one HTML page that needs nothing else: for each segment a picture, and tables with all that was dreamt."""

from collections.abc import Iterable, Sequence
from html import escape
from itertools import count

from dreamlm.core.generation.dreams.picture import Entry, draw, entries_of
from dreamlm.core.generation.dreams.values import (
    DreamGraph,
    DreamRecord,
    DreamtText,
    Node,
    Triplet,
    visible,
    without_controls,
)
from dreamlm.core.html_parts import figure, page, table
from dreamlm.core.roles import ROLES

MOST_PICTURES = 60
"""Further segments have their tables only."""
STRONGEST = 12
"""Edges in a table."""


def html(record: DreamRecord) -> str:
    """The page."""
    return page("dreamlm dreams", "Dreams", _body(record))


def _body(record: DreamRecord) -> Iterable[str]:
    yield f"<p>Segments of {record.segment_length:,} tokens. Beside each token: {escape(record.neighbours)}.</p>"
    if record.interrupted:
        yield '<p class="note">Note: writing was interrupted; this is what was dreamt until then.</p>'
    pictures = count(1)
    for number, text in enumerate(record.texts):
        yield from _text(number, text)
        for segment in text.segments:
            for entry in entries_of(number, segment):
                yield f"<h3>{escape(entry.title)}</h3>"
                yield from _graph(entry, next(pictures) <= MOST_PICTURES)


def _text(number: int, text: DreamtText) -> Iterable[str]:
    yield f"<h2>Text {number + 1}</h2>"
    yield f"<p>“{_said(text.prompt)}<b>{_said(text.text or '')}</b>”</p>"
    if not text.segments:
        yield '<p class="note">Note: the model read no segment of it to the end, so that nothing was dreamt.</p>'


def _graph(entry: Entry, drawn: bool) -> Iterable[str]:
    yield f"<p>“{_said(entry.passage)}”</p>"
    if drawn:
        yield from figure(draw([entry], "1 graph of dreams"), "What was dreamt of it; the tables below have all words.")
    graph = entry.graph
    yield from table(("", *ROLES), ("", "", "", ""), _words(graph))
    yield from table(("dream", "weights of its experts"), ("", ""), _gates(graph))
    yield from table(("strongest edges", "type", "share"), ("", "unit", "number"), _edges(graph))


def _words(graph: DreamGraph) -> Iterable[Sequence[str]]:
    yield "it begins from", *_row(graph.roles)
    for dream_number, dream in enumerate(graph.dreams):
        for step, triplet in enumerate(dream.steps):
            yield f"step {Node(dream_number, step).label}", *_row(triplet)


def _row(triplet: Triplet) -> list[str]:
    return [", ".join(f"{visible(one.token)} {one.score:.2f}" for one in nearest) for nearest in triplet.roles.values()]


def _gates(graph: DreamGraph) -> Iterable[Sequence[str]]:
    for number, dream in enumerate(graph.dreams, start=1):
        weights = enumerate(dream.gate, start=1)
        yield str(number), ", ".join(f"expert {expert}: {weight:.2f}" for expert, weight in weights if weight > 0)


def _edges(graph: DreamGraph) -> Iterable[Sequence[str]]:
    for edge in graph.strongest(STRONGEST):
        yield f"{edge.source.label} → {edge.target.label}", edge.type, f"{edge.strength:.2f}"


def _said(text: str) -> str:
    return escape(without_controls(text))
