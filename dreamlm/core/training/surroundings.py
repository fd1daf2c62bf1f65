"""What the loop talks to besides its backend and its stream, given to it by whoever puts a run together."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from dreamlm.core.training.hooks import Hook, Sample
from dreamlm.core.training.rows import RowPolicy, SameRows
from dreamlm.core.training.saving import Saver


@dataclass(frozen=True)
class Validation:
    """Held-out loss in nats per token, the same per byte of text in bits, and nats per token of each source."""

    nll: float
    bits_per_byte: float
    sources: dict[str, float]
    is_bound: bool = False
    """Whether these estimate upper bounds, as a diffusion model's do, and are not exact."""
    monte_carlo_error: float = 0.0
    """Standard error of `nll` as an estimate of its bound."""


@dataclass(frozen=True)
class Surroundings:
    """Where snapshots and reports go, and how the model is measured and made to write."""

    saver: Saver
    hooks: Hook
    validate: Callable[[], Validation]
    sample: Callable[[int], Sequence[Sample]]
    padding_id: int
    rows: RowPolicy = field(default_factory=SameRows)
    """Chooses the micro-batch from step to step."""
