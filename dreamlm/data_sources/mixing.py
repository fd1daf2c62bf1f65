"""Which source the next window comes from: pure in the cursor, so a resumed run continues the same sequence."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from math import isfinite
from typing import Literal, TypeAlias

from dreamlm.core.errors import UserMistake
from dreamlm.core.types import Cursor

MixStrategy: TypeAlias = Literal["round_robin", "sequential", "weighted"]


def next_sources(
    strategy: MixStrategy, cursor: Cursor, windows_per_epoch: Sequence[int], count: int
) -> tuple[list[int], tuple[float, ...]]:
    """The sources of the next `count` windows, and the credit after them.

    `round_robin` takes one window of each source in turn; `sequential` a whole epoch of the first source, then of
    the second; `weighted` keeps every source within a constant of its share of windows at all times, and follows
    changed weights at once.
    """
    first = cursor.samples
    if strategy == "round_robin":
        return [number % len(windows_per_epoch) for number in range(first, first + count)], cursor.credit
    if strategy == "sequential":
        ends = list(accumulate(windows_per_epoch))
        return [bisect_right(ends, number % ends[-1]) for number in range(first, first + count)], cursor.credit
    return _by_weight(cursor, count)


def _by_weight(cursor: Cursor, count: int) -> tuple[list[int], tuple[float, ...]]:
    """Smooth weighted round robin: every draw credits each source its share and charges the richest one a window."""
    credit, chosen = list(cursor.credit), []
    for _ in range(count):
        credit = [owed + weight for owed, weight in zip(credit, cursor.weights, strict=True)]
        allowed = (source for source, weight in enumerate(cursor.weights) if weight > 0)
        richest = max(allowed, key=lambda source: (credit[source], -source))
        credit[richest] -= 1.0
        chosen.append(richest)
    return chosen, tuple(credit)


def shares(strategy: MixStrategy, weights: Sequence[float], windows_per_epoch: Sequence[int]) -> tuple[float, ...]:
    """Which part of many windows comes from each source."""
    if strategy == "weighted":
        return tuple(weights)
    return normalised([1.0] * len(windows_per_epoch) if strategy == "round_robin" else windows_per_epoch)


def normalised(weights: Sequence[float]) -> tuple[float, ...]:
    """The weights scaled to a sum of 1. Raises: UserMistake for a negative or infinite one, or when all are 0."""
    if not all(isfinite(weight) and weight >= 0 for weight in weights) or not sum(weights) > 0:
        listed = ", ".join(f"{weight:g}" for weight in weights)
        raise UserMistake(f"source weights must be finite, none below 0 and not all 0, got {listed}")
    total = sum(weights)
    return tuple(weight / total for weight in weights)


def resolve_weights(
    given: Mapping[str, float] | Sequence[float] | None, names: Sequence[str], absent: Sequence[str] = ()
) -> tuple[float, ...]:
    """One weight for each of `names`, summing to 1; `absent` sources were asked for but gave no documents.

    A list follows the order of the sources as configured. Nothing given means equal weights.
    Raises: UserMistake naming an unknown or missing source, or a list of the wrong length.
    """
    configured = (*names, *absent)
    where = "data.source_weights"
    if given is None:
        return normalised([1.0] * len(names))
    if not isinstance(given, Mapping):
        if len(given) != len(names):
            what = f"source_weights lists {len(given)} weights for {len(names)} sources"
            raise UserMistake(what, where=where, valid=names, hint="give the weights by name")
        return normalised(given)
    if unknown := [name for name in given if name not in configured]:
        raise UserMistake(
            f"source_weights names no source of the corpus: {', '.join(unknown)}", where=where, valid=names
        )
    if missing := [name for name in names if name not in given]:
        what = f"source_weights gives no weight for {', '.join(missing)}"
        raise UserMistake(what, where=where, hint="a weight of 0 leaves a source out")
    return normalised([given[name] for name in names])
