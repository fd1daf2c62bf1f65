"""Everything a resumed run needs beside tensors, as one small JSON-able value."""

from dataclasses import asdict, dataclass, field
from typing import Any

from dreamlm.core.errors import CheckpointError
from dreamlm.core.types import Cursor

SCHEMA = 1


@dataclass(frozen=True)
class TrainingState:
    """Where a run stands. Randomness needs no entry: it is derived from the seed and the step."""

    seed: int
    planned_steps: int
    """Length of the learning-rate schedule, fixed when the run began."""
    global_rows: int
    """Windows of one optimizer step, over all ranks and micro-batches; never changes within a run."""
    micro_rows: int
    """Rows of one micro-batch; halved when memory runs out."""
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
        if schema != SCHEMA:
            raise CheckpointError(
                f"state.json has schema {schema}, this version reads {SCHEMA}",
                hint="continue the run with the dreamlm version that its manifest.json names",
            )
        cursor: dict[str, Any] = values.pop("cursor")
        values["early_losses"] = tuple(values["early_losses"])
        parts = {name: tuple(cursor[name]) for name in ("drawn", "credit", "weights")}
        return cls(cursor=Cursor(samples=cursor["samples"], **parts), **values)
