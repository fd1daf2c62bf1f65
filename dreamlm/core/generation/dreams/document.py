"""Dreams as one JSON document; `docs/dreams.md` says what its keys mean."""

from typing import Any

from dreamlm.core.generation.dreams.values import (
    DreamGraph,
    DreamRecord,
    DreamtSegment,
    DreamtText,
    Edge,
    Neighbour,
    Triplet,
)

FORMAT, VERSION = "dreamlm dreams", 1
DIGITS = 4
"""Of every score, weight and share, behind the point."""


def to_json(record: DreamRecord) -> dict[str, Any]:
    """The record as JSON values."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "segment_length": record.segment_length,
        "neighbours": record.neighbours,
        "interrupted": record.interrupted,
        "texts": [_text(number, text) for number, text in enumerate(record.texts)],
    }


def _text(number: int, text: DreamtText) -> dict[str, Any]:
    segments = [_segment(segment) for segment in text.segments]
    return {"number": number, "prompt": text.prompt, "text": text.text, "segments": segments}


def _segment(segment: DreamtSegment) -> dict[str, Any]:
    passage = segment.passage
    return {
        "reading": passage.reading,
        "number": passage.number,
        "begin": passage.begin,
        "end": passage.begin + len(passage.token_ids),
        "prompt_tokens": passage.prompt_tokens,
        "text": segment.text,
        "modules": {name: _graph(graph) for name, graph in segment.graphs.items()},
    }


def _graph(graph: DreamGraph) -> dict[str, Any]:
    return {
        "roles": _triplet(graph.roles),
        "dreams": [
            {"gate": [_number(weight) for weight in dream.gate], "steps": [_triplet(step) for step in dream.steps]}
            for dream in graph.dreams
        ],
        "edges": [_edge(edge) for edge in graph.edges],
    }


def _triplet(triplet: Triplet) -> dict[str, Any]:
    return {role: [_neighbour(one) for one in nearest] for role, nearest in triplet.roles.items()}


def _neighbour(neighbour: Neighbour) -> dict[str, Any]:
    return {"token": neighbour.token, "id": neighbour.id, "score": _number(neighbour.score)}


def _edge(edge: Edge) -> dict[str, Any]:
    return {
        "source": {"dream": edge.source.dream, "step": edge.source.step},
        "target": {"dream": edge.target.dream, "step": edge.target.step},
        "type": edge.type,
        "strength": _number(edge.strength),
        "shares": {name: _number(share) for name, share in edge.by_type.items()},
    }


def _number(value: float) -> float:
    return round(value, DIGITS)
