"""What the training of a reward model begins or goes on with, read and checked before anything is built."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dreamlm.checkpoints.frozen import freeze
from dreamlm.checkpoints.manifest import read_manifest
from dreamlm.checkpoints.snapshot import MODEL, Snapshot, read_snapshot
from dreamlm.checkpoints.store import Store
from dreamlm.core.errors import ResumeMismatch
from dreamlm.core.nn.diffusion import require_causal
from dreamlm.core.rl.reward_state import RewardState
from dreamlm.core.training.hooks import Hook
from dreamlm.core.training.memory import fitting, launcher_limit
from dreamlm.core.training.state import TrainingState
from dreamlm.data_sources.pairs import Pairs
from dreamlm.presets.difference import differences
from dreamlm.presets.resolve import resolve_values
from dreamlm.presets.schema import Preset
from dreamlm.wiring.loading import training_state
from dreamlm.wiring.places import RunFolder
from dreamlm.wiring.preferences import read_preferences
from dreamlm.wiring.stock_start import TAKEN_OVER, began_as, begin_folder, is_stock, taken_over

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
ORIGIN = "origin"
"""Where a run keeps the stock model that it began with."""
USED_OF_A_PRESET = "its rl section is used, whose rl.pairs names the preferences"


@dataclass(frozen=True)
class RewardRequest:
    """What the user asked for."""

    origin: Path
    """The model to start from: a run folder, a snapshot, or a model folder of transformers."""
    run: Path
    preset: Preset | None = None
    """None is the preset inside the model to start from; a stock model has none."""
    sets: Sequence[str] = ()
    """Applied to that preset when `preset` is None, and to what is asked of a stock model."""
    device: str = "auto"


@dataclass(frozen=True)
class RewardStart:
    """What a run begins or goes on with."""

    origin: Path
    """Of the snapshot to start from."""
    folder: Path
    """Of the snapshot: the origin's while the run has none."""
    snapshot: Snapshot
    preset: Preset
    trunk: str
    """Digest of the weights to start from; empty for a stock model that is not kept yet."""
    state: RewardState | None
    """None where the run begins."""

    @property
    def finished(self) -> bool:
        return self.state is not None and self.state.finished

    @property
    def expected_bytes(self) -> int:
        """What is written next: before the first update, the weights and two moments of Adam, and a stock model."""
        weights = sum(weight.nbytes for weight in self.snapshot.model.values())
        return self.snapshot.size_bytes if self.state else (3 if self.trunk else 4) * weights

    @property
    def micro_pairs(self) -> int:
        """Pairs of a micro-batch: the preset's, or fewer where memory ran out with more, in this start or before."""
        asked = self.preset.rl.reward_model.pairs_per_micro_batch
        fitted = self.state.micro_pairs if self.state else None
        return fitting(launcher_limit() or asked, fitted or asked)

    def kept(self, first: bool) -> "RewardStart":
        """A stock model lies in the run's folder from now on, as a snapshot like any other; the first process keeps it.

        Raises: OSError, when the disk is full for one.
        """
        if self.trunk:
            return self
        if first:
            freeze(self.snapshot, TAKEN_OVER, self.origin)
        return replace(self, trunk=_digest(self.origin))


def start_of(request: RewardRequest, store: Store, hook: Hook) -> RewardStart:
    """The newest snapshot of the run if there is one, else the model to start from.

    Raises: ResumeMismatch when settings, or the weights to start from, are not those of the run; UserMistake,
    CheckpointError.
    """
    newest = store.latest()
    if newest is None:
        RunFolder(request.run).require_unbegun()
        return _beginning(request, hook)
    snapshot = read_snapshot(newest.path)
    state = RewardState.from_json(snapshot.state)
    before = resolve_values(snapshot.preset, str(request.run))
    preset = _unchanged(request, snapshot, before)
    origin = newest.path if state.finished else _same_origin(request, before, state.trunk)
    asked, had = (one.rl.reward_model.pairs_per_micro_batch for one in (preset, before))
    if asked != had:
        state = replace(state, micro_pairs=None)  # somebody knows better what fits
    return RewardStart(origin, newest.path, snapshot, preset, state.trunk, state)


def _beginning(request: RewardRequest, hook: Hook) -> RewardStart:
    if is_stock(request.origin):
        snapshot, preset = taken_over(request.origin, request.preset, request.sets, USED_OF_A_PRESET)
        origin, trunk = request.run / ORIGIN, ""
    else:
        origin = begin_folder(request.origin)
        snapshot, trunk = read_snapshot(origin), _digest(origin)
        TrainingState.from_json(dict(training_state(snapshot.state)))  # what is no language model is said to be none
        preset = _own_preset(request, snapshot, origin, hook)
    require_causal(preset.model.diffusion, "a reward model")
    return RewardStart(origin, origin, snapshot, preset, trunk, None)


def _same_origin(request: RewardRequest, before: Preset, trunk: str) -> Path:
    """The snapshot that the run began with.  Raises: ResumeMismatch when the request names other weights."""
    kept = request.run / ORIGIN
    if kept.exists() and began_as(before, request.origin):
        return kept
    if is_stock(request.origin) or trunk != _digest(begin_folder(request.origin)):
        same = f"{kept}, where the run keeps them," if kept.exists() else "the same snapshot"
        raise ResumeMismatch(
            "the run began with other weights than those that are here now",
            where=str(request.origin),
            hint=f"name {same} with --from DIR, or start another run with --run OTHER",
        )
    return begin_folder(request.origin)


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
