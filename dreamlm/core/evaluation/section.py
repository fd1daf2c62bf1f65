"""What an evaluation found: perplexity, and the sections that were asked for beside it.

A section is a list of figures with a name each, so that the terminal's table, the page of plots, the HTML page and the
JSON show a new one without being told.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from dreamlm.core.evaluation.bootstrap import Interval
from dreamlm.core.evaluation.report import PerplexityReport


@dataclass(frozen=True)
class Figure:
    """One measured number."""

    name: str
    """What a person reads, such as `self-BLEU`."""
    value: float | None
    """None where there was nothing to measure on."""
    interval: Interval | None
    """None where there was too little to say how far the value can be trusted."""
    unit: str
    """What it counts, such as `nats per token`; for a share, of what."""
    is_share: bool = True
    """Whether it lies in [0, 1]."""

    @property
    def key(self) -> str:
        """The name in JSON, such as `self_bleu`."""
        return re.sub(r"[^a-z0-9]+", "_", self.name.lower())


class Picture(Protocol):
    """Something of a section that is better seen than said."""

    @property
    def name(self) -> str:
        """Of its file, in lower case; different from those of the section's other pictures."""

    @property
    def caption(self) -> str:
        """What is seen, in a sentence or two."""

    def draw(self) -> Any:
        """A new figure of matplotlib."""


@dataclass(frozen=True)
class Section:
    """One thing that was measured beside perplexity."""

    key: str
    """Its name in JSON, in lower case."""
    title: str
    summary: str
    """What it was measured on, in a sentence."""
    figures: tuple[Figure, ...]
    confidence: float
    """Of every interval."""
    notes: tuple[str, ...] = ()
    """What was left out and why, and what makes figures hard to compare: a sentence each."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """What JSON holds besides: settings, and what the figures were counted in."""
    pictures: tuple[Picture, ...] = ()

    def file_of(self, picture: Picture) -> str:
        """Name of the file of one of its pictures."""
        return f"{self.key}_{picture.name}.png"

    def figure(self, name: str) -> Figure:
        """The figure of that name.  Raises: KeyError."""
        return {figure.name: figure for figure in self.figures}[name]

    def to_json(self) -> dict[str, Any]:
        figures = {
            figure.key: {
                "value": figure.value,
                "interval": None if figure.interval is None else asdict(figure.interval),
                "unit": figure.unit,
            }
            for figure in self.figures
        }
        return {
            "summary": self.summary,
            "figures": figures,
            "confidence": self.confidence,
            "notes": list(self.notes),
            **self.details,
        }


@dataclass(frozen=True)
class EvaluationReport:
    """Everything that one evaluation measured."""

    perplexity: PerplexityReport
    sections: tuple[Section, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The figures of perplexity, and beside them an object for each section, under its key."""
        return {**self.perplexity.to_json(), **{section.key: section.to_json() for section in self.sections}}


def figure_text(value: float, digits: int = 4) -> str:
    """The number with so many significant digits, and without an exponent where it is of ordinary size."""
    if value == 0:
        return "0"
    if not 1e-4 <= abs(value) < 1e6:
        return f"{value:.{digits - 1}e}"
    return f"{value:.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}"
