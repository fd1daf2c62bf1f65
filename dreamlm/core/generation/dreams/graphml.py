"""Dreams as one GraphML graph, for programs that draw and measure graphs; `docs/dreams.md` lists its attributes.

A node is a step of a dream, an edge is what messages go along. All segments of all texts are in one graph, because many
programs read only the first of a file; a node says where it belongs.

Source: Brandes et al. 2002, "GraphML Progress Report", with its attributes extension.
"""

from collections.abc import Iterable, Mapping
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from dreamlm.core.generation.dreams.values import (
    DreamRecord,
    DreamtSegment,
    Edge,
    Node,
    Triplet,
    visible,
    without_controls,
)

Values = Mapping[str, str | int | float]
NAMESPACE = "http://graphml.graphdrawing.org/xmlns"
TYPES: Mapping[type, str] = {str: "string", int: "int", float: "double"}


def graphml(record: DreamRecord) -> bytes:
    """The file."""
    nodes: dict[str, Values] = {}
    edges: list[tuple[str, str, Values]] = []
    for number, text in enumerate(record.texts):
        for segment in text.segments:
            _add(number, segment, nodes, edges)
    root = Element("graphml", xmlns=NAMESPACE)
    _declare(root, "node", nodes.values())
    _declare(root, "edge", (values for _, _, values in edges))
    graph = SubElement(root, "graph", id="dreams", edgedefault="directed")
    for id, values in nodes.items():
        _fill(SubElement(graph, "node", id=id), values)
    for source, target, values in edges:
        _fill(SubElement(graph, "edge", source=source, target=target), values)
    ElementTree.indent(root)
    written: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return written + b"\n"


def _add(text: int, segment: DreamtSegment, nodes: dict[str, Values], edges: list[tuple[str, str, Values]]) -> None:
    passage = segment.passage
    where: Values = {
        "text": text,
        "reading": passage.reading,
        "segment": passage.number,
        "begin": passage.begin,
        "end": passage.begin + len(passage.token_ids),
        "passage": without_controls(segment.text),
    }
    for module, graph in segment.graphs.items():
        prefix = f"text{text}.reading{passage.reading}.segment{passage.number}.{module}"
        for dream_number, dream in enumerate(graph.dreams):
            gate = {f"gate_{expert}": weight for expert, weight in enumerate(dream.gate)}
            for step, triplet in enumerate(dream.steps):
                node = Node(dream_number, step)
                place = {**where, "module": module, "dream": dream_number, "step": step}
                nodes[_id(prefix, node)] = {"label": triplet.label, **place, **_words(triplet), **gate}
        edges += [(_id(prefix, edge.source), _id(prefix, edge.target), _attributes(edge)) for edge in graph.edges]


def _words(triplet: Triplet) -> Values:
    values: dict[str, str | float] = {}
    for role, nearest in triplet.roles.items():
        values[role] = visible(nearest[0].token)
        values[f"{role}_score"] = nearest[0].score
        values[f"{role}_neighbours"] = ", ".join(f"{visible(one.token)} {one.score:.3f}" for one in nearest)
    return values


def _attributes(edge: Edge) -> Values:
    shares = {f"share_{name}": share for name, share in edge.by_type.items()}
    return {"type": edge.type, "weight": edge.strength, **shares}


def _id(prefix: str, node: Node) -> str:
    return f"{prefix}.dream{node.dream}.step{node.step}"


def _declare(root: Element, of: str, all_values: Iterable[Values]) -> None:
    """A key for each attribute that any of the nodes, or edges, has."""
    kinds = {name: TYPES[type(value)] for values in all_values for name, value in values.items()}
    for name, kind in kinds.items():
        SubElement(root, "key", {"id": f"{of}_{name}", "for": of, "attr.name": name, "attr.type": kind})


def _fill(element: Element, values: Values) -> None:
    for name, value in values.items():
        SubElement(element, "data", key=f"{element.tag}_{name}").text = str(value)
