"""A page of plots of one evaluation: what context is worth, and where the model is weak."""

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from dreamlm.core.errors import UserMistake
from dreamlm.core.evaluation.report import PerplexityReport, Score
from dreamlm.core.evaluation.section import EvaluationReport, Section
from dreamlm.core.evaluation.section_plot import draw_section, height

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, MUTED, BLUE, ORANGE = "#222222", "#777777", "#3b6ea8", "#d08a3c"
POOLED_FACTOR = 1.4
DOTS_PER_INCH = 130


def plot_report(report: EvaluationReport, path: Path) -> None:
    """Write the page as PNG (or what the file's suffix says). Raises: UserMistake when the file cannot be written."""
    save_figure(draw_report(report.perplexity, report.sections), path)


def save_figure(figure: "Figure", path: Path) -> None:
    """Write a page of plots.  Raises: UserMistake when the file cannot be written."""
    try:
        figure.savefig(path, dpi=DOTS_PER_INCH)
    except (OSError, ValueError) as error:
        raise UserMistake(f"the page of plots cannot be written: {error}", where=str(path)) from error


def draw_report(report: PerplexityReport, sections: Sequence[Section] = ()) -> "Figure":
    """Headline figures above loss by position and loss by source, and a strip for each section below."""
    from matplotlib.figure import Figure  # half a second of import time

    heights = [max(5.0, 2.6 + 0.42 * len(report.sources)), *(height(section) for section in sections)]
    figure = Figure(figsize=(11, sum(heights)), layout="constrained")
    figure.suptitle(_headline(report), fontsize=11, color=INK, x=0.01, ha="left")
    grid = figure.add_gridspec(len(heights), 2, height_ratios=heights)
    by_position, by_source = figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[0, 1])
    _draw_positions(by_position, report)
    _draw_sources(by_source, report)
    strips = [figure.add_subplot(grid[row, :]) for row in range(1, len(heights))]
    for strip, section in zip(strips, sections, strict=True):
        draw_section(strip, section, INK, MUTED, BLUE)
    for axes in (by_position, by_source, *strips):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=MUTED, labelsize=9)
    return figure


def pooled(losses: Sequence[float]) -> tuple[list[float], list[float]]:
    """Position (from 1) and loss, each averaged over ranges of positions that grow by `POOLED_FACTOR`."""
    centres, means, begin = [], [], 1
    while begin <= len(losses):
        end = min(len(losses), max(begin, int(begin * POOLED_FACTOR)))
        if found := [loss for loss in losses[begin - 1 : end] if not math.isnan(loss)]:
            centres.append((begin + end) / 2)
            means.append(fmean(found))
        begin = end + 1
    return centres, means


def _headline(report: PerplexityReport) -> str:
    figures = [
        f"perplexity {report.perplexity:,.2f}{_range(report)}",
        f"{report.cross_entropy:.4f} nats per token",
        f"{report.bits_per_byte:.4f} bits per byte",
    ]
    if report.is_bound:
        figures.append(f"an upper bound, +-{report.monte_carlo_error:.4f} nats per token")
    size = f"{report.tokens:,} tokens, {report.utf8_bytes:,} bytes, {report.windows:,} windows"
    return "   ·   ".join(figures) + "\n" + size


def _range(report: PerplexityReport) -> str:
    interval = report.perplexity_interval
    return "" if interval is None else f" ({report.confidence:.0%}: {interval.low:,.2f} to {interval.high:,.2f})"


def _draw_positions(axes: Any, report: PerplexityReport) -> None:
    losses = report.position_cross_entropy
    axes.plot(range(1, len(losses) + 1), losses, color=BLUE, alpha=0.3, linewidth=0.8, label="each position")
    axes.plot(*pooled(losses), color=BLUE, linewidth=2, marker="o", markersize=3.5, label="ranges of positions")
    axes.axhline(report.cross_entropy, color=MUTED, linewidth=0.8, linestyle="--", label="all positions")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.set_xlabel("position in the window (log scale)", color=INK)
    axes.set_ylabel("cross-entropy, nats per token", color=INK)
    axes.set_title("What context is worth", loc="left", color=INK, fontsize=11)
    axes.legend(frameon=False, fontsize=9, labelcolor=MUTED)


def _draw_sources(axes: Any, report: PerplexityReport) -> None:
    ordered = sorted(report.sources, key=lambda source: source.cross_entropy, reverse=True)
    places = range(len(ordered))
    axes.barh(places, [source.cross_entropy for source in ordered], color=ORANGE, height=0.5, alpha=0.85)
    for place, source in zip(places, ordered, strict=True):
        interval = source.cross_entropy_interval
        if interval is not None:
            axes.plot([interval.low, interval.high], [place, place], color=INK, linewidth=1.6)
        axes.annotate(
            _note(source), (_right_end(source), place), (5, 0), textcoords="offset points", va="center", fontsize=8.5
        )
    axes.set_yticks(list(places), [source.source for source in ordered])
    axes.set_xlim(0, 1.6 * max(_right_end(source) for source in ordered))
    axes.set_xlabel(f"cross-entropy, nats per token, with {report.confidence:.0%} interval", color=INK)
    axes.set_title("By source", loc="left", color=INK, fontsize=11)


def _right_end(source: Score) -> float:
    interval = source.cross_entropy_interval
    return source.cross_entropy if interval is None else max(interval.high, source.cross_entropy)


def _note(source: Score) -> str:
    return f"{source.cross_entropy:.3f}  ({source.tokens:,} tokens)"
