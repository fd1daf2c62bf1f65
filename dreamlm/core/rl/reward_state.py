"""Everything that a resumed training of a reward model needs beside tensors, as one small JSON-able value."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from dreamlm.core.errors import CheckpointError
from dreamlm.core.evaluation.preference import PreferenceReport

SCHEMA = 1
KIND = "reward"


@dataclass(frozen=True)
class RewardState:
    """Where a run stands. The order of the pairs is derived from the preset's seed and the step."""

    planned_steps: int
    precision: str
    """`bf16` or `fp32`: what `auto` chose, kept for the whole run."""
    trunk: str
    """Digest of the weights that it began with."""
    pairs: str
    """Fingerprint of the preferences."""
    step: int = 0
    """Attempted steps: applied and skipped."""
    tokens: int = 0
    """Real tokens read so far."""
    skipped_in_a_row: int = 0
    """Steps whose loss or gradient was not finite."""
    report: PreferenceReport | None = None
    """What held-out pairs said, the last time they were asked."""
    measured_step: int | None = None
    """The step whose weights they were asked about."""
    best_loss: float | None = None
    micro_pairs: int | None = None
    """Pairs of one micro-batch, fewer than the preset's since memory ran out with more; None when it did not."""

    @property
    def finished(self) -> bool:
        return self.step >= self.planned_steps

    @property
    def measured_loss(self) -> float | None:
        """The held-out loss of just these weights; None when they were not measured."""
        return self.report.loss if self.report is not None and self.measured_step == self.step else None

    def to_json(self) -> dict[str, Any]:
        return {"kind": KIND, "schema": SCHEMA, **asdict(self)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "RewardState":
        """Raises: CheckpointError when something else or another schema wrote it."""
        values = dict(data)
        kind, schema = values.pop("kind", None), values.pop("schema", None)
        if (kind, schema) != (KIND, SCHEMA):
            raise CheckpointError(
                f"this is no reward model: state.json is of kind {kind or 'train'}, schema {schema}",
                valid=[f"kind {KIND}, schema {SCHEMA}"],
                hint="dreamlm rl reward --from RUN --run DIR makes a reward model",
            )
        report = values.pop("report")
        return cls(report=PreferenceReport.from_json(report) if report else None, **values)
