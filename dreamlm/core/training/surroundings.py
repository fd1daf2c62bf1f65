"""What the loop talks to besides its backend and its stream, given to it by whoever puts a run together."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from dreamlm.core.training.backend.backend import Tensors
from dreamlm.core.training.hooks import Hook, Sample
from dreamlm.core.training.state import TrainingState


@dataclass(frozen=True)
class Validation:
    """Held-out loss in nats per token, the same per byte of text in bits, and nats per token of each source."""

    nll: float
    bits_per_byte: float
    sources: dict[str, float]


class Saver(Protocol):
    """Where snapshots go. Called on every rank; only the first one writes."""

    def save(self, state: TrainingState, tensors: Tensors) -> Path:
        """Commit a snapshot.  Raises: OutOfSpace, with the older snapshots untouched."""
        ...

    def roll_back(self) -> int:
        """Make the newest finite snapshot the current one; its step."""
        ...


@dataclass(frozen=True)
class Surroundings:
    """Where snapshots and reports go, and how the model is measured and made to write."""

    saver: Saver
    hooks: Hook
    validate: Callable[[], Validation]
    sample: Callable[[int], Sequence[Sample]]
    padding_id: int
