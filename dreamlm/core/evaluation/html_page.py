"""The report as one HTML page that needs nothing else: tables of figures, and pictures inside it.

It is well-formed XML too, so that a test can read it without a browser.
"""

from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from dreamlm.core.evaluation.bootstrap import Interval
from dreamlm.core.evaluation.report import PerplexityReport
from dreamlm.core.evaluation.section import EvaluationReport, Section, figure_text

ABSENT = "-"
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { text-align: left; padding: .25rem .9rem .25rem 0; border-bottom: 1px solid #ddd; vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
figure { margin: 1.5rem 0; } img { max-width: 100%; height: auto; }
figcaption, .unit, .note { color: #666; font-size: .9rem; }
"""


def html_page(report: EvaluationReport, page_of_plots: bytes, pictures: Mapping[str, bytes]) -> str:
    """The page.  page_of_plots: a PNG; pictures: a PNG for each picture of a section, by the name of its file."""
    lines = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8" />',
        '<meta name="viewport" content="width=device-width, initial-scale=1" />',
        "<title>dreamlm evaluation</title>",
        f"<style>{STYLE}</style>",
        "</head>",
        "<body>",
        "<h1>Evaluation</h1>",
        *_perplexity(report.perplexity),
        *_figure(page_of_plots, "Loss by position and by source, and the figures of every section."),
        *(line for section in report.sections for line in _section(section, pictures)),
        "</body>",
        "</html>",
    ]
    return "\n".join(lines) + "\n"


def _perplexity(report: PerplexityReport) -> Iterable[str]:
    header = ("measure", "value", f"{report.confidence:.0%} interval", "unit")
    yield "<h2>Perplexity</h2>"
    yield (
        f"<p>On {report.tokens:,} tokens, {report.utf8_bytes:,} bytes, in {report.windows:,} windows; "
        f"{report.padding:.1%} of what was computed was padding.</p>"
    )
    yield from _table(
        header,
        [
            ("cross-entropy", report.cross_entropy, report.cross_entropy_interval, "nats per token"),
            ("perplexity", report.perplexity, report.perplexity_interval, ""),
            ("bits per byte", report.bits_per_byte, report.bits_per_byte_interval, ""),
        ],
    )
    if report.monte_carlo_error > 0:
        yield (
            "<p>An upper bound, as a diffusion model has no other; its standard error of estimation is "
            f"{report.monte_carlo_error:.4f} nats per token.</p>"
        )
    if len(report.sources) > 1:
        yield from _table(
            ("source", "cross-entropy", header[2], "tokens"),
            [(one.source, one.cross_entropy, one.cross_entropy_interval, f"{one.tokens:,}") for one in report.sources],
        )


def _section(section: Section, pictures: Mapping[str, bytes]) -> Iterable[str]:
    yield f"<h2>{escape(section.title)}</h2>"
    yield f"<p>On {escape(section.summary)}.</p>"
    yield from _table(
        ("measure", "value", f"{section.confidence:.0%} interval", "unit"),
        [(one.name, one.value, one.interval, one.unit) for one in section.figures],
    )
    for note in section.notes:
        yield f'<p class="note">Note: {escape(note)}</p>'
    for picture in section.pictures:
        yield from _figure(pictures[section.file_of(picture)], picture.caption)


def _table(header: Sequence[str], rows: Sequence[tuple[str, float | None, Interval | None, str]]) -> Iterable[str]:
    yield "<table>"
    yield "<thead><tr>" + "".join(f"<th>{escape(name)}</th>" for name in header) + "</tr></thead>"
    yield "<tbody>"
    for name, value, interval, unit in rows:
        number = ABSENT if value is None else figure_text(value)
        between = ABSENT if interval is None else f"{figure_text(interval.low)} to {figure_text(interval.high)}"
        yield (
            f'<tr><td>{escape(name)}</td><td class="number">{number}</td><td class="number">{between}</td>'
            f'<td class="unit">{escape(unit)}</td></tr>'
        )
    yield "</tbody>"
    yield "</table>"


def _figure(picture: bytes, caption: str) -> Iterable[str]:
    said = escape(caption)
    yield "<figure>"
    yield f'<img alt="{said}" src="data:image/png;base64,{b64encode(picture).decode("ascii")}" />'
    yield f"<figcaption>{said}</figcaption>"
    yield "</figure>"
