"""Everything a resumed run needs beside tensors, as one small JSON-able value."""

import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from dreamlm.core.errors import CheckpointError
from dreamlm.core.types import Cursor

SCHEMA = 2
READABLE = (1, 2)
"""The first lacks `sizing`."""
_SMOOTHING = 0.9
"""Weight of the steps before in the smoothed loss."""


@dataclass(frozen=True)
class Sizing:
    """What the choice of the micro-batch remembers."""

    most_rows: int | None = None
    """No micro-batch gets more rows, since a larger one ran out of memory in this run."""
    times_halved: int = 0
    """How often rows were halved because a step took more than the target."""
    looked_at_step: int = 0
    """The last step after which rows were changed, or could have been doubled."""
    over_target: bool = False
    """Whether the last step seemed to take more than the target, which the next one, read exactly, has to confirm."""
    loss_then: float | None = None
    """The smoothed training loss at that step; nats per token."""
    loss: float | None = None
    """The smoothed training loss; nats per token."""

    @property
    def improved(self) -> bool:
        return self.loss is not None and self.loss_then is not None and self.loss < self.loss_then

    def seen(self, nll: float) -> "Sizing":
        """With one more step's loss, if it is finite."""
        if not math.isfinite(nll):
            return self
        if self.loss is None:
            return replace(self, loss=nll, loss_then=nll)
        return replace(self, loss=_SMOOTHING * self.loss + (1 - _SMOOTHING) * nll)

    def looked(self, step: int) -> "Sizing":
        return replace(self, looked_at_step=step, over_target=False, loss_then=self.loss)

    def ran_out(self, fewer: int) -> "Sizing":
        """After more than `fewer` rows did not fit."""
        return replace(self, most_rows=fewer if self.most_rows is None else min(fewer, self.most_rows))


@dataclass(frozen=True)
class TrainingState:
    """Where a run stands. Randomness needs no entry: it is derived from the seed and the step."""

    seed: int
    planned_steps: int
    """Length of the learning-rate schedule, fixed when the run began."""
    global_rows: int
    """Windows of one optimizer step, over all ranks and micro-batches; never changes within a run."""
    micro_rows: int
    """Windows of one micro-batch; halved when memory runs out, and as `train.memory` asks."""
    precision: str
    """`bf16` or `fp32`: what `auto` chose, kept for the whole run."""
    corpus: str
    """Fingerprint of the corpus."""
    cursor: Cursor
    step: int = 0
    """Attempted steps: applied and skipped."""
    tokens: int = 0
    """Real target tokens trained on."""
    skipped_steps: int = 0
    skipped_in_a_row: int = 0
    early_losses: tuple[float, ...] = field(default=())
    """Losses of the first hundred steps, for the check that they fall."""
    best_validation_loss: float | None = None
    last_validation_loss: float | None = None
    validated_step: int | None = None
    """The step whose weights had the last validation loss."""
    sizing: Sizing = Sizing()

    @property
    def progress(self) -> float:
        """Share of the planned steps, 1 at most: where the run stands, whatever was asked for since it began."""
        return min(1.0, self.step / max(1, self.planned_steps))

    @property
    def measured_loss(self) -> float | None:
        """The validation loss of just these weights; None when they were not measured."""
        return self.last_validation_loss if self.validated_step == self.step else None

    def to_json(self) -> dict[str, Any]:
        return {"schema": SCHEMA, **asdict(self)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "TrainingState":
        """Raises: CheckpointError when something else or another schema wrote it."""
        values = dict(data)
        kind = values.pop("kind", None)
        if kind is not None:
            raise CheckpointError(
                f"this is no run of dreamlm train: its state.json is of kind {kind}",
                hint="a reward model judges texts and writes none: name the model that it began as"
                if kind == "reward"
                else "continue it with dreamlm rl",
            )
        schema = values.pop("schema", None)
        if schema not in READABLE:
            raise CheckpointError(
                f"state.json has schema {schema}, this version reads {' and '.join(map(str, READABLE))}",
                hint="continue the run with the dreamlm version that its manifest.json names",
            )
        cursor: dict[str, Any] = values.pop("cursor")
        values["early_losses"] = tuple(values["early_losses"])
        parts = {name: tuple(cursor[name]) for name in ("drawn", "credit", "weights")}
        sizing = Sizing(**values.pop("sizing", {}))
        return cls(cursor=Cursor(samples=cursor["samples"], **parts), sizing=sizing, **values)
