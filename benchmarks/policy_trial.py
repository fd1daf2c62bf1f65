"""What both sides of `policy.py` are told, and what they tell of an iteration. Imported in both interpreters."""

import math
from dataclasses import dataclass
from pathlib import Path

PROMPT, ANSWER, ANSWERS, EPOCHS, MINIBATCH, LEARNING_RATE = 32, 64, 64, 4, 16, 1e-4
TRAINED = EPOCHS * ANSWERS * ANSWER
"""Tokens that the updates of an iteration see."""


@dataclass(frozen=True)
class Iteration:
    """What one iteration did, and the seconds it took."""

    written: int
    """Tokens of answers."""
    trained: int
    updates: int
    loss: float
    rollout: float
    update: float
    critic: float
    """Part of `update` that a critic with a trunk of its own took."""
    whole: float

    def require_all_work(self, name: str) -> None:
        found = (self.written, self.trained, self.updates)
        wanted = (ANSWERS * ANSWER, TRAINED, EPOCHS * ANSWERS // MINIBATCH)
        if found != wanted or not math.isfinite(self.loss):
            raise SystemExit(f"{name}: {found} tokens written, trained and updates instead of {wanted}, {self.loss=}")


@dataclass(frozen=True)
class Trial:
    """What both sides are told."""

    folder: str
    precision: str
    rounds: int
    """The first warms up and is not counted."""
    iterations: int
    threads: int

    @property
    def prompts(self) -> Path:
        return Path(self.folder) / "prompts.jsonl"

    @property
    def base(self) -> Path:
        """The run that holds the model's snapshot."""
        return Path(self.folder) / "base"

    @property
    def exported(self) -> Path:
        return Path(self.folder) / "llama"
