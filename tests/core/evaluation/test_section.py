import json

import pytest
from matplotlib.figure import Figure as Page
from small_model import hand_made, small_model

from dreamlm.core.evaluation.bootstrap import Interval
from dreamlm.core.evaluation.perplexity import evaluate
from dreamlm.core.evaluation.plots import draw_report, plot_report
from dreamlm.core.evaluation.section import EvaluationReport, Figure, Section, figure_text
from dreamlm.core.evaluation.section_plot import draw_section, said

SECTION = Section(
    key="variety",
    title="Variety",
    summary="3 texts",
    figures=(
        Figure("seen 8-grams", 0.25, Interval(0.2, 0.3), "share of all"),
        Figure("self-BLEU", 0.5, None, "mean"),
        Figure("entropy", 9.5, Interval(9.25, 10.0), "bits", is_share=False),
        Figure("repetition", None, None, "share"),
    ),
    confidence=0.9,
    notes=("quality is left out",),
    details={"texts": 3},
)


def test_a_section_stands_in_the_json_beside_the_figures_of_perplexity() -> None:
    perplexity = evaluate(small_model(), hand_made(), 4)
    document = json.loads(json.dumps(EvaluationReport(perplexity, (SECTION,)).to_json(), allow_nan=False))
    section = document.pop("variety")
    assert document == json.loads(json.dumps(perplexity.to_json()))
    assert section["figures"]["seen_8_grams"] == {
        "value": 0.25,
        "interval": {"low": 0.2, "high": 0.3},
        "unit": "share of all",
    }
    assert (section["figures"]["repetition"]["value"], section["figures"]["self_bleu"]["interval"]) == (None, None)
    assert (section["notes"], section["texts"], section["confidence"]) == (["quality is left out"], 3, 0.9)


def test_a_section_is_a_strip_of_the_page_with_its_shares_to_scale(tmp_path: pytest.TempPathFactory) -> None:
    perplexity = evaluate(small_model(), hand_made(), 4)
    strip = draw_report(perplexity, [SECTION]).axes[2]
    assert [label.get_text() for label in strip.get_yticklabels()] == [one.name for one in SECTION.figures]
    dots = [float(line.get_xdata()[0]) for line in strip.lines if line.get_marker() == "o"]
    assert dots == [0.25, 0.5]
    assert [0.2, 0.3] in [list(line.get_xdata()) for line in strip.lines]
    assert [one.get_text() for one in strip.texts] == [said(figure) for figure in SECTION.figures]
    plot_report(EvaluationReport(perplexity, (SECTION, SECTION)), tmp_path / "page.png")
    assert (tmp_path / "page.png").read_bytes().startswith(b"\x89PNG")


def test_a_figure_is_said_with_what_is_known_of_it() -> None:
    assert said(SECTION.figures[0]) == "0.2500 (0.2000 to 0.3000)   share of all"
    assert said(SECTION.figures[1]) == "0.5000   mean"
    assert said(SECTION.figures[3]) == "nothing to measure on   share"


def test_a_section_without_a_figure_can_be_drawn() -> None:
    axes = Page().subplots()
    draw_section(axes, Section("empty", "Empty", "nothing", (), 0.9), "k", "k", "k")
    assert axes.get_title(loc="left") == "Empty: nothing"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0651234, "0.06512"),
        (11.0156, "11.02"),
        (1.0, "1.000"),
        (0.0, "0"),
        (-3.14159, "-3.142"),
        (123456.7, "123457"),
    ],
)
def test_figures_have_four_significant_digits(value: float, text: str) -> None:
    assert figure_text(value) == text


def test_very_small_and_very_large_figures_have_an_exponent() -> None:
    assert (figure_text(1.234e-7), figure_text(2.5e9)) == ("1.234e-07", "2.500e+09")
