"""The page of the report: whole, well-formed, and without anything from outside."""

import re
from base64 import b64decode
from xml.etree import ElementTree

from small_model import hand_made, small_model
from test_section import SECTION

from dreamlm.core.evaluation.html_page import html_page
from dreamlm.core.evaluation.perplexity import evaluate
from dreamlm.core.evaluation.section import EvaluationReport, Figure, Section

WILD = "a <b>&\"'</script> name"


class Shot:
    """Implements `core.evaluation.section.Picture`."""

    name, caption = "shot", WILD

    def draw(self) -> object:
        raise AssertionError


def page(*sections: Section, sources: tuple[str, ...] = ("books", WILD, "papers")) -> str:
    report = EvaluationReport(evaluate(small_model(), hand_made(), 4, sources), sections)
    return html_page(report, b"\x89PNG page", {"wild_shot.png": b"\x89PNG shot"})


def texts(tree: ElementTree.Element, tag: str) -> list[str]:
    return ["".join(one.itertext()) for one in tree.iter(tag)]


def test_every_figure_note_and_picture_is_on_the_page() -> None:
    wild = Section(
        key="wild",
        title=WILD,
        summary=WILD,
        figures=(Figure(WILD, -0.25, None, WILD, is_share=False),),
        confidence=0.9,
        notes=(WILD,),
        pictures=(Shot(),),
    )
    written = page(SECTION, wild)
    assert written.startswith("<!DOCTYPE html>\n")
    tree = ElementTree.fromstring(written)
    cells = texts(tree, "td")
    for section in (SECTION, wild):
        assert section.title in texts(tree, "h2")
        assert all(figure.name in cells and figure.unit in cells for figure in section.figures)
    assert {"0.2500", "0.2000 to 0.3000", "-0.2500", "-", "books", "papers", "bits per byte"} <= set(cells)
    assert cells.count(WILD) == 3, "a source, a figure, and its unit"
    assert texts(tree, "p")[-2:] == [f"On {WILD}.", f"Note: {WILD}"]
    assert texts(tree, "figcaption")[-1] == WILD
    assert [image.get("alt") for image in tree.iter("img")][-1] == WILD


def test_pictures_are_inside_the_page_and_nothing_is_fetched() -> None:
    wild = Section("wild", "Wild", "it", (), 0.9, pictures=(Shot(),))
    written = page(wild)
    tree = ElementTree.fromstring(written)
    sources = [image.get("src", "").partition("data:image/png;base64,") for image in tree.iter("img")]
    assert [b64decode(data) for _, found, data in sources if found] == [b"\x89PNG page", b"\x89PNG shot"]
    assert not re.search(r"https?:|//|url\(|@import|<script|<link", written)


def test_a_page_without_sections_and_with_one_source_is_perplexity_alone() -> None:
    tree = ElementTree.fromstring(page(sources=()))
    assert texts(tree, "h2") == ["Perplexity"]
    assert len(list(tree.iter("img"))) == 1
