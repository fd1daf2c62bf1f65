"""Every form of the file says all that was dreamt, and appears whole or not at all."""

import json
import re
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from dreams_by_hand import WORDS, graph, record

from dreamlm.core.errors import DreamLMError, UserMistake
from dreamlm.core.generation.dreams.curves import BOX_HEIGHT, BOX_WIDTH, curve
from dreamlm.core.generation.dreams.files import FORMS, DreamFile
from dreamlm.core.generation.dreams.graphml import NAMESPACE, graphml
from dreamlm.core.generation.dreams.lettering import CUT, MISSING, Lettering
from dreamlm.core.generation.dreams.picture import DOTS_PER_INCH, MOST_INCHES, draw_record, entries_of
from dreamlm.core.generation.dreams.values import DreamRecord
from dreamlm.core.modules.dreaming.edges import edge_type_names

DOCS = Path(__file__).parents[3] / "docs" / "dreams.md"
PARSE = {"string": str, "int": int, "double": float}


def written(path: Path, what: DreamRecord) -> bytes:
    DreamFile.at(path).write(what)
    return path.read_bytes()


def test_the_json_document_holds_every_word_weight_and_edge(tmp_path: Path) -> None:
    document = json.loads(written(tmp_path / "dreams.json", record(segments=2)))
    assert {key: value for key, value in document.items() if key != "texts"} == {
        "format": "dreamlm dreams",
        "version": 1,
        "segment_length": 4,
        "neighbours": "how near",
        "interrupted": False,
    }
    first, second = document["texts"]
    assert second == {"number": 1, "prompt": "The", "text": "", "segments": []}
    assert (first["number"], first["prompt"], first["text"]) == (0, "The <sea>", " was calm")
    segment = first["segments"][1]
    modules = segment.pop("modules")
    assert segment == {
        "reading": 0, "number": 1, "begin": 4, "end": 8, "prompt_tokens": 2, "text": "calm \x0b <sea>\nnight",
    }  # fmt: skip
    dreams, edges = modules["dreaming"]["dreams"], modules["dreaming"]["edges"]
    assert modules["dreaming"]["roles"]["what"][0] == {"token": " naïve", "id": 3, "score": 0.9}
    assert [dream["gate"] for dream in dreams] == [[0.0, 0.75, 0.25]] * 2
    assert dreams[1]["steps"][0]["action"][1] == {"token": WORDS[5], "id": 5, "score": 0.15}
    assert len(edges) == 2 * 1 + 2 * 2
    assert edges[1] == {
        "source": {"dream": 0, "step": 0},
        "target": {"dream": 1, "step": 0},
        "type": "spatial",
        "strength": 0.5,
        "shares": {"temporal": 0.1667, "spatial": 0.5, "causal": 0.1667, "abstract": 0.1667},
    }


def test_a_text_that_was_not_finished_is_null(tmp_path: Path) -> None:
    document = json.loads(written(tmp_path / "dreams.json", record(interrupted=True)))
    assert document["interrupted"] is True
    assert [text["text"] for text in document["texts"]] == [None, None]


def read_graphml(content: bytes) -> tuple[dict[str, dict[str, object]], list[tuple[str, str, dict[str, object]]]]:
    """Nodes and edges with their attributes in the types that the file declares, as its readers do."""
    space = f"{{{NAMESPACE}}}"
    root = ElementTree.fromstring(content)
    assert root.tag == f"{space}graphml"
    [graph_element] = root.findall(f"{space}graph")
    assert graph_element.get("edgedefault") == "directed"
    keys = {one.get("id"): one for one in root.findall(f"{space}key")}

    def attributes(element: ElementTree.Element) -> dict[str, object]:
        found = {}
        for data in element.findall(f"{space}data"):
            key = keys[data.get("key")]
            assert f"{space}{key.get('for')}" == element.tag
            found[key.get("attr.name")] = PARSE[key.get("attr.type")](data.text)
        return found

    nodes = {one.get("id"): attributes(one) for one in graph_element.findall(f"{space}node")}
    edges = [(one.get("source"), one.get("target"), attributes(one)) for one in graph_element.findall(f"{space}edge")]
    assert len(nodes) == len(graph_element.findall(f"{space}node")), "an id twice"
    assert {end for source, target, _ in edges for end in (source, target)} <= nodes.keys()
    return nodes, edges


def test_the_graph_reads_back_with_typed_attributes(tmp_path: Path) -> None:
    nodes, edges = read_graphml(written(tmp_path / "dreams.graphml", record(segments=3)))
    assert (len(nodes), len(edges)) == (3 * 4, 3 * 6)
    node = nodes["text0.reading0.segment1.dreaming.dream1.step0"]
    assert node.pop("passage") == "calm \\x0b <sea>\nnight"
    assert node == {
        "label": "\\n → 漢字 → WWWWWWWWWWWWWWWWWWWWWWWW",
        "text": 0, "reading": 0, "segment": 1, "begin": 4, "end": 8, "module": "dreaming", "dream": 1, "step": 0,
        "what": "\\n", "what_score": 0.9, "what_neighbours": "\\n 0.900, naïve 0.650",
        "action": "漢字", "action_score": 0.4, "action_neighbours": "漢字 0.400, <b>&\\x0b 0.150",
        "result": WORDS[6], "result_score": -0.1, "result_neighbours": f"{WORDS[6]} -0.100, $x^2$ -0.350",
        "gate_0": 0.0, "gate_1": 0.75, "gate_2": 0.25,
    } | {key: pytest.approx(node[key]) for key in ("action_score", "result_score")}  # fmt: skip
    assert node["result_score"] == pytest.approx(-0.1)
    source, target, values = edges[1]
    assert (source, target) == (
        "text0.reading0.segment0.dreaming.dream0.step0",
        "text0.reading0.segment0.dreaming.dream1.step0",
    )
    assert (values["type"], values["weight"]) == ("spatial", 0.5)
    assert values["share_causal"] == pytest.approx(0.5 / 3)


@pytest.mark.parametrize("what", [record(segments=0), record(types=1), record(types=6, dreams=1, steps=1)])
@pytest.mark.parametrize("suffix", FORMS)
def test_every_form_holds_any_record(tmp_path: Path, suffix: str, what: DreamRecord) -> None:
    assert written(tmp_path / f"dreams{suffix}", what)
    assert [one.name for one in tmp_path.iterdir()] == [f"dreams{suffix}"]


def size_of(png: bytes) -> tuple[int, int]:
    assert png.startswith(b"\x89PNG")
    return int.from_bytes(png[16:20]), int.from_bytes(png[20:24])


def test_a_picture_grows_with_its_graphs_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = size_of(draw_record(record(segments=1))), size_of(draw_record(record(segments=2)))
    assert one[0] == two[0]
    assert one[1] < two[1]
    headings = []
    monkeypatch.setattr(
        "dreamlm.core.generation.dreams.picture.draw",
        lambda entries, heading: headings.append((len(entries), heading)) or b"",
    )
    [entry] = entries_of(0, record(segments=1).texts[0].segments[0])
    room = int(MOST_INCHES / entry.height)
    for segments in (room - 1, 4 * room):
        draw_record(record(segments=segments))
    assert headings[0] == (room - 1, f"{room - 1} graphs of dreams")
    assert headings[1][0] in (room - 1, room)
    assert headings[1][1] == f"the first {headings[1][0]} of {4 * room} graphs of dreams"


@pytest.mark.parametrize(
    ("steps", "types", "rows"), [(1, 1, 0), (2, 4, 1), (3, 4, 1), (7, 12, 1), (3, 12, 2), (1, 12, 0)]
)
def test_the_legend_is_whole_at_every_width(monkeypatch: pytest.MonkeyPatch, steps: int, types: int, rows: int) -> None:
    """Without edges there are no types to name."""
    said: list[tuple[float, float, str]] = []
    monkeypatch.setattr("matplotlib.axes.Axes.text", lambda axes, x, y, text, **_: said.append((x, y, text)))
    what = record(segments=1, dreams=1, steps=steps, types=types)
    width = size_of(draw_record(what))[0] / DOTS_PER_INCH
    title = next(place for place, (_, _, text) in enumerate(said) if text.startswith("text 1"))
    legend, below = said[:title], said[title][1]
    assert not any(CUT in text for *_, text in legend)
    assert legend[1][2].endswith("the wider, the larger that type's share")
    assert [text for *_, text in legend[2:]] == (list(edge_type_names(types)) if rows else [])
    assert len({y for _, y, _ in legend[2:]}) == rows
    for x, y, text in legend:
        assert x + Lettering().width(text, 8.5) <= width
        assert y < below - 0.2
    for (x, y, text), (next_x, next_y, _) in pairwise(legend[2:]):
        assert next_y > y + 0.2 or next_x > x + Lettering().width(text, 8.5)


def test_an_edge_crosses_no_other_box_of_its_row_or_column() -> None:
    def centre(dream: int, step: int) -> tuple[float, float]:
        return 2.1 * step, 1.05 * dream

    for edge in graph(dreams=4, steps=5).edges:
        ends = {(node.dream, node.step) for node in (edge.source, edge.target)}
        line = curve(edge, centre(*_place(edge.source)), centre(*_place(edge.target))).line
        begin, middle, end = line.vertices
        for share in (number / 50 for number in range(51)):
            x, y = (1 - share) ** 2 * begin + 2 * share * (1 - share) * middle + share**2 * end
            for place in [(dream, step) for dream in range(4) for step in range(5) if (dream, step) not in ends]:
                left, top = centre(*place)
                assert abs(x - left) > BOX_WIDTH / 2 or abs(y - top) > BOX_HEIGHT / 2, (edge, place)


def _place(node: object) -> tuple[int, int]:
    return node.dream, node.step


def test_there_and_back_lie_beside_one_another() -> None:
    edges = {(edge.source.label, edge.target.label): edge for edge in graph(dreams=2, steps=1).edges}
    down = curve(edges["1.1", "2.1"], (0, 0), (0, 1.05)).line.vertices
    up = curve(edges["2.1", "1.1"], (0, 1.05), (0, 0)).line.vertices
    assert abs(down[0][0] - up[0][0]) > 0.2
    assert (down[0][1] < down[2][1], up[0][1] > up[2][1]) == (True, True)


def test_words_fit_their_boxes_in_characters_that_the_font_has() -> None:
    letters = Lettering()
    for word in WORDS:
        fitted = letters.fitted(word, 7.5, 0.95)
        assert letters.width(fitted, 7.5) <= 0.95
    assert letters.fitted("漢字", 7.5, 0.95) == 2 * MISSING
    assert letters.fitted("sea", 7.5, 0.95) == "sea"
    assert re.fullmatch(f"W+{CUT}", letters.fitted("W" * 24, 7.5, 0.95))
    widths = [letters.width(letters.fitted("W" * 24, 7.5, room), 7.5) for room in (0.5, 0.7, 0.95)]
    assert all(one < other for one, other in pairwise(widths))


def test_the_page_is_whole_and_fetches_nothing(tmp_path: Path) -> None:
    page = written(tmp_path / "dreams.html", record(segments=2, interrupted=True)).decode()
    tree = ElementTree.fromstring(page)
    assert not re.search(r"https?:|//|url\(|@import|<script|<link", re.sub(r"base64,[^\"]*", "", page))
    assert page.count('src="data:image/png;base64,') == 2
    cells = ["".join(one.itertext()) for one in tree.iter("td")]
    assert cells[:2] == ["it begins from", "naïve 0.90, 漢字 0.65"]
    assert "expert 2: 0.75, expert 3: 0.25" in cells
    strongest = cells.index("0.70")
    assert cells[strongest - 2 : strongest] == ["2.1 → 1.1", "abstract"]
    assert [one.text for one in tree.iter("h3")][1] == (
        "text 1, segment 2, tokens 4 to 7 (prompt, then written), dreaming"
    )
    notes = [one.text for one in tree.iter("p") if one.get("class") == "note"]
    assert notes[0].startswith("Note: writing was interrupted")
    assert len(notes) == 2, "a text without dreams says so"


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("dreams.pdf", "dreams cannot be written as .pdf"),
        ("dreams", "this name does not say which form"),
        ("absent/dreams.json", "dreams cannot be written here: No such file or directory"),
        ("folder.json", "this is a folder"),
    ],
)
def test_a_file_that_cannot_be_is_refused_at_once(tmp_path: Path, name: str, what: str) -> None:
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(UserMistake) as raised:
        DreamFile.at(tmp_path / name)
    assert (raised.value.what, raised.value.where) == (what, str(tmp_path / name))
    if "written as" in what:
        assert raised.value.valid == ("dreams.graphml", "dreams.html", "dreams.json", "dreams.png")


def test_a_file_stays_as_it_was_when_the_system_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "dreams.json"
    path.write_text("before")
    file = DreamFile.at(path)
    assert path.read_text() == "before"

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(DreamLMError, match="the dreams could not be written: No space left on device"):
        file.write(record())
    assert path.read_text() == "before"
    assert [one.name for one in tmp_path.iterdir()] == ["dreams.json"]


def test_the_manual_names_every_key_and_attribute(tmp_path: Path) -> None:
    manual = DOCS.read_text(encoding="utf-8")
    named = set(re.findall(r"`([a-z_]+)`", manual))

    def keys(value: object) -> set[str]:
        if isinstance(value, dict):
            inner = (keys(one) for name, one in value.items())
            return {name for name in value if name not in ("dreaming", "temporal", "spatial", "causal", "abstract")} | {
                key for one in inner for key in one
            }
        return {key for one in value for key in keys(one)} if isinstance(value, list) else set()

    assert keys(json.loads(written(tmp_path / "dreams.json", record()))) <= named
    nodes, edges = read_graphml(graphml(record()))
    attributes = {key for values in nodes.values() for key in values} | {key for *_, values in edges for key in values}
    assert {re.sub(r"(gate|share)_\w+", r"\1_", key) for key in attributes} <= named | {"gate_", "share_"}
