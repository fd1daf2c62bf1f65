"""Everything a resumed run of reinforcement learning needs beside tensors, as one small JSON-able value."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from dreamlm.core.errors import CheckpointError
from dreamlm.core.rl.alarms import Figures, Watch
from dreamlm.core.rl.moments import RunningMoments

SCHEMA = 2
KIND = "ppo"


@dataclass(frozen=True)
class PolicyState:
    """Where a run stands. Randomness needs no entry: it is derived from the seed and the iteration."""

    seed: int
    precision: str
    """`bf16` or `fp32`: what `auto` chose, kept for the whole run."""
    prompts: str
    """Fingerprint of the prompts."""
    reference: str
    """Digest of the frozen model's weights."""
    kl_coefficient: float
    world_size: int
    """Processes: they share the answers of an iteration, so a run goes on with as many."""
    step: int = 0
    """Iterations done."""
    tokens: int = 0
    """Tokens of all answers so far."""
    prompt_cursor: int = 0
    """Prompts drawn so far."""
    updates: int = 0
    """Optimizer steps applied."""
    rate_factor: float = 1.0
    """What the alarms have left of the learning rate."""
    skipped_in_a_row: int = 0
    """Updates in a row whose loss or gradient was not finite."""
    moments: RunningMoments = field(default_factory=RunningMoments)
    watch: Watch = field(default_factory=Watch)
    best_reward: float | None = None
    last_reward: float | None = None
    judged_step: int | None = None
    """The iteration whose policy earned the last held-out reward."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """The state of the training that the first policy came from: its corpus, its tokens."""

    @property
    def measured_loss(self) -> float | None:
        """What the store takes for a held-out loss, lower being better: the held-out reward, negated."""
        return -self.last_reward if self.last_reward is not None and self.judged_step == self.step else None

    def to_json(self) -> dict[str, Any]:
        return {"kind": KIND, "schema": SCHEMA, **asdict(self)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "PolicyState":
        """Raises: CheckpointError when something else or another schema wrote it."""
        values = dict(data)
        kind, schema = values.pop("kind", None), values.pop("schema", None)
        if (kind, schema) != (KIND, SCHEMA):
            raise CheckpointError(
                f"state.json is of kind {kind or 'training'}, schema {schema}; this reads kind {KIND}, schema {SCHEMA}",
                hint="continue the run with the command, and the dreamlm version, that began it",
            )
        watch = values.pop("watch")
        first = Figures(**watch["first"]) if watch["first"] else None
        return cls(
            moments=RunningMoments(**values.pop("moments")),
            watch=Watch(first, watch["streaks"], watch["backoffs"]),
            **values,
        )
