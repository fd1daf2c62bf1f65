"""The report as one HTML page that needs nothing else: tables of figures, and pictures inside it."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from dreamlm.core.evaluation.bootstrap import Interval
from dreamlm.core.evaluation.report import PerplexityReport
from dreamlm.core.evaluation.section import EvaluationReport, Section, figure_text
from dreamlm.core.html_parts import figure, page, table

ABSENT = "-"


def html_page(report: EvaluationReport, page_of_plots: bytes, pictures: Mapping[str, bytes]) -> str:
    """The page.  page_of_plots: a PNG; pictures: a PNG for each picture of a section, by the name of its file."""
    body = [
        *_perplexity(report.perplexity),
        *figure(page_of_plots, "Loss by position and by source, and the figures of every section."),
        *(line for section in report.sections for line in _section(section, pictures)),
    ]
    return page("dreamlm evaluation", "Evaluation", body)


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
    if report.is_bound:
        yield (
            "<p>An upper bound, as a diffusion model has no other; its standard error of estimation is at most about "
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
        yield from figure(pictures[section.file_of(picture)], picture.caption)


def _table(header: Sequence[str], rows: Sequence[tuple[str, float | None, Interval | None, str]]) -> Iterable[str]:
    cells = [
        (
            name,
            ABSENT if value is None else figure_text(value),
            ABSENT if interval is None else f"{figure_text(interval.low)} to {figure_text(interval.high)}",
            unit,
        )
        for name, value, interval, unit in rows
    ]
    yield from table(header, ("", "number", "number", "unit"), cells)
