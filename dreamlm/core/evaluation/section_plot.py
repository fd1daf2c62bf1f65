"""A section of a report as a strip of the page: a line for each figure, shares drawn to scale, the others said."""

from typing import Any

from dreamlm.core.evaluation.section import Figure, Section, figure_text

LINE_INCHES = 0.32
"""Height of a figure's line."""


def draw_section(axes: Any, section: Section, ink: str, muted: str, colour: str) -> None:
    """Draw the figures from top to bottom on matplotlib's axes, with their intervals."""
    places = range(len(section.figures))
    for place, figure in zip(places, section.figures, strict=True):
        if figure.is_share and figure.value is not None:
            axes.plot([0, 1], [place, place], color=muted, linewidth=0.4, alpha=0.5, zorder=0)
            axes.plot(figure.value, place, marker="o", markersize=5, color=colour)
            if figure.interval is not None:
                axes.plot([figure.interval.low, figure.interval.high], [place, place], color=ink, linewidth=1.6)
        axes.annotate(said(figure), (1.02, place), va="center", fontsize=8.5, color=ink, annotation_clip=False)
    axes.set_yticks(list(places), [figure.name for figure in section.figures])
    axes.set_ylim(max(1, len(section.figures)) - 0.5, -0.5)
    axes.set_xlim(0, 2.2)  # the right half is for the words
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
    axes.set_xlabel(f"shares, with {section.confidence:.0%} intervals", color=ink, loc="left")
    axes.set_title(f"{section.title}: {section.summary}", loc="left", color=ink, fontsize=11)


def said(figure: Figure) -> str:
    """The figure in words."""
    if figure.value is None:
        return f"nothing to measure on   {figure.unit}"
    interval = figure.interval
    between = "" if interval is None else f" ({figure_text(interval.low)} to {figure_text(interval.high)})"
    return f"{figure_text(figure.value)}{between}   {figure.unit}"


def height(section: Section) -> float:
    """Inches that the strip needs, its title and axis included."""
    return 1.0 + LINE_INCHES * len(section.figures)
