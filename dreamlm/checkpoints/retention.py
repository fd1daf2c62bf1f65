"""Which snapshots a run keeps, and under which name: one pure function."""

import math
from collections.abc import Sequence
from typing import Protocol, TypeVar, cast

from dreamlm.checkpoints.manifest import Record

ROLLING = ("lm_current", "lm_prev", "lm_prev2")
BEST, FINITE = "lm_best", "lm_finite"
NAMES = (*ROLLING, BEST, FINITE)


class Named(Protocol):
    """Anything with a record and a present name."""

    @property
    def name(self) -> str: ...

    @property
    def record(self) -> Record: ...


S = TypeVar("S", bound=Named)


def assign_names(
    newest_first: Sequence[S], rolling: int = len(ROLLING), keep_best: bool = True, keep_finite: bool = True
) -> dict[str, S]:
    """The snapshots to keep, by the name each has to bear; the others are to be dropped.

    The newest `rolling` (1 to 3) are lm_current, lm_prev, lm_prev2. The best one and the last finite one, once older
    than those, are lm_best and lm_finite; a snapshot that is both is lm_best. One that already fell off does not come
    back into the rolling ones, unless it is the newest of all.
    """
    in_line = [one for one in newest_first if one is newest_first[0] or one.name not in (BEST, FINITE)]
    names = dict(zip(ROLLING[:rolling], in_line, strict=False))
    older = [one for one in newest_first if not any(one is kept for kept in names.values())]
    best, finite = best_of(newest_first), last_finite_of(newest_first)
    for wanted, name, snapshot in ((keep_best, BEST, best), (keep_finite, FINITE, finite)):
        if wanted and any(snapshot is one for one in older) and not any(snapshot is one for one in names.values()):
            names[name] = cast(S, snapshot)
    return names


def best_of(newest_first: Sequence[S]) -> S | None:
    """The finite snapshot with the lowest validation loss, the newest of equals; None when none was measured."""
    measured = [snapshot for snapshot in newest_first if _can_win(snapshot.record)]
    return min(measured, key=lambda snapshot: snapshot.record.validation_loss or 0.0, default=None)


def last_finite_of(newest_first: Sequence[S]) -> S | None:
    """The newest finite snapshot, or None."""
    return next((snapshot for snapshot in newest_first if snapshot.record.finite), None)


def _can_win(record: Record) -> bool:
    return record.finite and record.validation_loss is not None and math.isfinite(record.validation_loss)
