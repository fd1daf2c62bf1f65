"""What the training of a reward model begins or goes on with, read and checked before anything is built."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dreamlm.checkpoints.manifest import read_manifest
from dreamlm.checkpoints.snapshot import MODEL, Snapshot, read_snapshot
from dreamlm.checkpoints.store import Store
from dreamlm.core.errors import ResumeMismatch
from dreamlm.core.rl.reward_state import RewardState
from dreamlm.core.training.hooks import Hook
from dreamlm.core.training.memory import fitting, launcher_limit
from dreamlm.core.training.state import TrainingState
from dreamlm.data_sources.pairs import Pairs
from dreamlm.presets.difference import differences
from dreamlm.presets.resolve import resolve_values
from dreamlm.presets.schema import Preset
from dreamlm.wiring.loading import snapshot_folder, training_state
from dreamlm.wiring.preferences import read_preferences

FREE = (
    "save_interval_seconds",
    "save_interval_steps",
    "retry_seconds",
    "max_skipped_steps",
    "pairs_per_micro_batch",
    "backend",
    "zero_stage",
)
"""What may differ when a run goes on; the pairs are compared as they were read."""


@dataclass(frozen=True)
class RewardRequest:
    """What the user asked for."""

    origin: Path
    """The model to start from: a run folder or a snapshot."""
    run: Path
    preset: Preset | None = None
    """None is the preset inside the model to start from."""
    sets: Sequence[str] = ()
    """Applied to that preset when `preset` is None."""
    device: str = "auto"


@dataclass(frozen=True)
class RewardStart:
    """What a run begins or goes on with."""

    folder: Path
    """Of the snapshot: the origin's while the run has none."""
    snapshot: Snapshot
    preset: Preset
    trunk: str
    """Digest of the weights to start from."""
    state: RewardState | None
    """None where the run begins."""

    @property
    def finished(self) -> bool:
        return self.state is not None and self.state.finished

    @property
    def expected_bytes(self) -> int:
        """What the next snapshot takes: before the first update, the weights and two moments of Adam are to come."""
        weights = sum(weight.nbytes for weight in self.snapshot.model.values())
        return self.snapshot.size_bytes if self.state else 3 * weights

    @property
    def micro_pairs(self) -> int:
        """Pairs of a micro-batch: the preset's, or fewer where memory ran out with more, in this start or before."""
        asked = self.preset.rl.reward_model.pairs_per_micro_batch
        fitted = self.state.micro_pairs if self.state else None
        return fitting(launcher_limit() or asked, fitted or asked)


def start_of(request: RewardRequest, store: Store, hook: Hook) -> RewardStart:
    """The newest snapshot of the run if there is one, else the model to start from.

    Raises: ResumeMismatch when settings, or the weights to start from, are not those of the run; UserMistake,
    CheckpointError.
    """
    newest = store.latest()
    if newest is None:
        origin = snapshot_folder(request.origin)
        snapshot = read_snapshot(origin)
        TrainingState.from_json(dict(training_state(snapshot.state)))  # what is no language model is said to be none
        return RewardStart(origin, snapshot, _own_preset(request, snapshot, origin, hook), _digest(origin), None)
    snapshot = read_snapshot(newest.path)
    state = RewardState.from_json(snapshot.state)
    before = resolve_values(snapshot.preset, str(request.run))
    preset = _unchanged(request, snapshot, before)
    if not state.finished and state.trunk != _digest(snapshot_folder(request.origin)):
        raise ResumeMismatch(
            "the run began with other weights than those that are here now",
            where=str(request.origin),
            hint="name the same snapshot with --from DIR, or start another run with --run OTHER",
        )
    asked, had = (one.rl.reward_model.pairs_per_micro_batch for one in (preset, before))
    if asked != had:
        state = replace(state, micro_pairs=None)  # somebody knows better what fits
    return RewardStart(newest.path, snapshot, preset, state.trunk, state)


def pairs_of(start: RewardStart, hook: Hook) -> Pairs:
    """The preferences of the run.  Raises: ResumeMismatch when they are others than it began with."""
    pairs = read_preferences(start.preset, hook)
    if start.state is not None and start.state.pairs != pairs.fingerprint:
        raise ResumeMismatch(
            "the run was trained on other preference pairs, or on another part of them",
            where="rl.pairs",
            hint="restore them, or start another run with --run OTHER",
        )
    return pairs


def _digest(folder: Path) -> str:
    return read_manifest(folder).files[MODEL].sha256


def _unchanged(request: RewardRequest, snapshot: Snapshot, before: Preset) -> Preset:
    """The run's preset, with what may change.  Raises: ResumeMismatch naming what differs otherwise."""
    now = request.preset or resolve_values(snapshot.preset, str(request.run), request.sets)
    old, new = (preset.rl.reward_model.model_dump(mode="json", exclude=set(FREE)) for preset in (before, now))
    if refused := [
        f"  rl.reward_model.{key}: the run has {a!r}, the request {b!r}" for key, a, b in differences(old, new)
    ]:
        raise ResumeMismatch(
            "the run on disk was started with other settings:\n" + "\n".join(refused),
            hint="start another run with --run OTHER",
        )
    return before.model_copy(update={"rl": now.rl})


def _own_preset(request: RewardRequest, snapshot: Snapshot, folder: Path, hook: Hook) -> Preset:
    """The preset of a run that begins: with the decoder and the tokenizer of the model to start from."""
    where = str(folder / "preset.json")
    origin = resolve_values(snapshot.preset, where)
    preset = request.preset or resolve_values(origin.model_dump(mode="json"), where, request.sets)
    own = {"model": origin.model, "tokenizer": origin.tokenizer}
    if any(getattr(preset, section) != value for section, value in own.items()):
        hook.on_notice(
            f"model and tokenizer are those of {request.origin}; what preset {preset.name} says of them does not hold"
        )
    return preset.model_copy(update=own)
