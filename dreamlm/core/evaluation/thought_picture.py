"""A picture of how the thoughts of one document evolve: norms in the stack, direction, path, and change per token."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np
import numpy.typing as npt

from dreamlm.core.evaluation.thought_evolution import Evolution

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, MUTED, BLUE, ORANGE, COLOURS = "#222222", "#777777", "#3b6ea8", "#d08a3c", "viridis"
MOST_NUMBERS, LEAST_DISTANCE = 16, 0.08
"""Of places on the path with a number, and between them, as a share of the path's width and height."""


@final
@dataclass(frozen=True)
class EvolutionPicture:
    """Implements `core.evaluation.section.Picture`."""

    evolution: Evolution
    name = "evolution"

    @property
    def caption(self) -> str:
        one = self.evolution
        return (
            f"How thoughts evolve over the {one.segments:,} complete segments, of {one.segment_length:,} tokens each, "
            f"of the text that begins “{one.opening}”."
        )

    def draw(self) -> "Figure":
        from matplotlib.figure import Figure  # half a second of import time

        count = self.evolution.segments
        thoughts = f"{count:,} thoughts" if count > 1 else "one thought"
        figure = Figure(figsize=(11, 7.6), layout="constrained")
        layout: Any = figure.get_layout_engine()
        layout.set(w_pad=0.12, h_pad=0.1)
        figure.suptitle(
            f"{thoughts} of the text that begins “{self.evolution.opening}”",
            fontsize=11, color=INK, x=0.01, ha="left", parse_math=False,
        )  # fmt: skip
        grid = figure.subplots(2, 2)
        _draw_norms(figure, grid[0, 0], self.evolution)
        _draw_cosine(grid[0, 1], self.evolution)
        _draw_path(figure, grid[1, 0], self.evolution)
        _draw_change(grid[1, 1], self.evolution)
        for axes in grid.flat:
            axes.spines[["top", "right"]].set_visible(False)
            axes.tick_params(colors=MUTED, labelsize=9)
        return figure


def _draw_norms(figure: Any, axes: Any, one: Evolution) -> None:
    ages, segments = one.slot_norm_MN.shape
    image = axes.imshow(
        one.slot_norm_MN,
        aspect="auto",
        origin="lower",
        cmap=COLOURS,
        extent=(0.5, segments + 0.5, -0.5, ages - 0.5),
        interpolation="nearest",
    )
    figure.colorbar(image, ax=axes, label="norm of the thought")
    _number(axes, segments)
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.set_ylabel("age in the stack, in segments (0 is new)", color=INK)
    axes.set_title("Norms in the stack", loc="left", color=INK, fontsize=11)


def _draw_cosine(axes: Any, one: Evolution) -> None:
    number = range(1, one.segments + 1)
    axes.axhline(0, color=MUTED, linewidth=0.6)
    axes.plot(number, one.cosine_N, color=BLUE, linewidth=1.6, marker="o", markersize=4 if one.segments <= 32 else 2.5)
    axes.set_ylim(min(-0.05, _least(one.cosine_N) - 0.05), 1.05)
    _number(axes, one.segments)
    axes.set_ylabel("cosine to the thought before", color=INK)
    axes.set_title("Direction kept from segment to segment", loc="left", color=INK, fontsize=11)
    _admit(axes, one)


def _draw_path(figure: Any, axes: Any, one: Evolution) -> None:
    from matplotlib.patheffects import withStroke

    number = np.arange(1, one.segments + 1)
    x_N, y_N = one.projection_N2.T
    axes.plot(x_N, y_N, color=MUTED, linewidth=0.8, alpha=0.7, zorder=1)
    dots = axes.scatter(x_N, y_N, c=number, cmap=COLOURS, vmin=1, vmax=max(2, one.segments), s=26, zorder=2)
    figure.colorbar(dots, ax=axes, label="segment").ax.yaxis.get_major_locator().set_params(integer=True)
    for place in labelled(one.projection_N2):
        axes.annotate(
            str(place + 1), (x_N[place], y_N[place]), (5, 5), textcoords="offset points", fontsize=8.5, color=INK,
            path_effects=[withStroke(linewidth=1.8, foreground="white")],
        )  # fmt: skip
    axes.margins(0.12)
    first, second = one.explained_2
    axes.set_xlabel(f"first principal direction ({first:.0%} of variance)", color=INK)
    axes.set_ylabel(f"second ({second:.0%} of variance)", color=INK)
    axes.set_title("Path of the thoughts, numbered by segment", loc="left", color=INK, fontsize=11)


def _draw_change(axes: Any, one: Evolution) -> None:
    axes.bar(range(1, one.segments + 1), np.nan_to_num(one.change_per_token_N), color=ORANGE, width=0.6, alpha=0.85)
    if one.segments < 2:
        axes.set_ylim(0, 1)
    _number(axes, one.segments)
    axes.set_ylabel("||new - last|| per token", color=INK)
    axes.set_title(
        f"Change per token, in segments of {one.segment_length:,} tokens", loc="left", color=INK, fontsize=11
    )
    _admit(axes, one)


def _number(axes: Any, segments: int) -> None:
    axes.set_xlim(0.5, segments + 0.5)
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    axes.set_xlabel("segment", color=INK)


def _admit(axes: Any, one: Evolution) -> None:
    """Say why nothing is drawn."""
    if one.segments < 2:
        axes.text(0.5, 0.5, "one thought only", transform=axes.transAxes, ha="center", color=MUTED)


def _least(values: Any) -> float:
    there = values[~np.isnan(values)]
    return float(there.min()) if len(there) else 0.0


def labelled(projection_N2: npt.NDArray[np.float64]) -> list[int]:
    """The places on the path that get a number: the last, the first, and those at equal times that lie apart."""
    span_2 = np.ptp(projection_N2, axis=0)
    place_N2 = projection_N2 / np.where(span_2 > 0, span_2, 1)
    chosen: list[int] = []
    even = {round(place) for place in np.linspace(0, len(place_N2) - 1, min(len(place_N2), MOST_NUMBERS))}
    for place in [len(place_N2) - 1, *sorted(even)]:
        if all(np.hypot(*(place_N2[place] - place_N2[other])) > LEAST_DISTANCE for other in chosen):
            chosen.append(place)
    return sorted(chosen)
