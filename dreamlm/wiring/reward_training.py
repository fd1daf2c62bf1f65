"""`dreamlm rl reward`: a trained model and preference pairs become a reward model.

1. lock and repair the run, read its newest snapshot if there is one
2. read the pairs, and the model to start from; refuse differences by name
3. build the reward model, its objective and its backend; take over the snapshot
4. run, and write down what the offered snapshot is worth
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dreamlm.checkpoints.manifest import read_manifest
from dreamlm.checkpoints.snapshot import MODEL, Snapshot, read_snapshot
from dreamlm.checkpoints.store import Store
from dreamlm.core.errors import CheckpointError, ResumeMismatch, UserMistake
from dreamlm.core.evaluation.preference import PreferenceReport
from dreamlm.core.objectives.preference import PreferenceObjective
from dreamlm.core.rl.pair_reading import Measure, measures_nothing
from dreamlm.core.rl.reward_model import RewardModel
from dreamlm.core.rl.reward_state import RewardState
from dreamlm.core.rl.reward_training import RewardData, RewardTrainer
from dreamlm.core.tokenizer import Tokenizer
from dreamlm.core.training.backend.backend import Backend, Tensors
from dreamlm.core.training.backend.choose import build_backend
from dreamlm.core.training.backend.process_group import Place
from dreamlm.core.training.config import TrainingConfig
from dreamlm.core.training.hooks import Hook, Hooks, RunEnd
from dreamlm.core.training.memory import BUILDING, within_memory
from dreamlm.core.training.precision import choose_precision
from dreamlm.core.training.recorders import MetricsFile, TensorBoard
from dreamlm.presets.difference import differences
from dreamlm.presets.resolve import resolve_values
from dreamlm.presets.schema import Preset
from dreamlm.wiring.loading import Loaded, choose_device, load, snapshot_folder
from dreamlm.wiring.places import RunFolder
from dreamlm.wiring.preferences import measured_by, read_preferences, reward_data
from dreamlm.wiring.saver import SnapshotSaver

FREE = ("save_interval_seconds", "save_interval_steps", "retry_seconds", "max_skipped_steps", "pairs_per_micro_batch")
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


def train_reward(request: RewardRequest, hook: Hook) -> PreferenceReport:
    """Fit a reward model to preferences, or go on from the newest snapshot of the run; what its best snapshot is worth.

    Raises: UserMistake and its kind before anything is allocated; Interrupted after a signal, with a snapshot saved;
    TrainingFailed, OutOfSpace, DataError, CheckpointError.
    """
    if Place.from_environment().world_size > 1:
        raise UserMistake("a reward model is trained in one process", hint="start it without a launcher")
    store = Store(request.run, on_notice=hook.on_notice)
    with store.lock():
        for sentence in store.repair():
            hook.on_notice(sentence)
        newest = store.latest()
        if newest is None:
            _Training.begun(request, store, hook).run()
        else:
            snapshot = read_snapshot(newest.path)
            state = RewardState.from_json(snapshot.state)
            preset = _unchanged(request, snapshot)
            if state.finished:
                _say_finished(state, hook)
            else:
                _Training.continued(request, store, hook, preset, snapshot, state).run()
        return _report(store, RunFolder(request.run))


def _unchanged(request: RewardRequest, snapshot: Snapshot) -> Preset:
    """The run's preset, with what may change.  Raises: ResumeMismatch naming what differs otherwise."""
    before = resolve_values(snapshot.preset, str(request.run))
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


def _say_finished(state: RewardState, hook: Hook) -> None:
    hook.on_notice("this reward model is finished already; train another with --run OTHER")
    loss = state.report.loss if state.report else None
    hook.on_end(RunEnd("already_finished", state.step, state.tokens, 0.0, None, loss, None))


def _report(store: Store, folder: RunFolder) -> PreferenceReport:
    """What the best snapshot is worth, written down beside it."""
    best = store.best()
    report = RewardState.from_json(read_snapshot(best.path).state).report if best else None
    if report is None:
        raise CheckpointError("no snapshot of this run was measured", where=str(store.folder))
    path = folder.path / "reward_report.json"
    temporary = path.with_suffix(".json.tmp")
    temporary.write_text(json.dumps(report.to_json(), indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)
    return report


class _Training:
    """Everything of one call to `train_reward`, put together."""

    @classmethod
    def begun(cls, request: RewardRequest, store: Store, hook: Hook) -> "_Training":
        origin = load(request.origin, request.device)
        preset = _own_preset(request, origin, hook)
        config = preset.rl.reward_model
        store.require_space(3 * sum(weight.nbytes for weight in origin.model.parameters()))
        pairs = read_preferences(preset, hook)
        model = RewardModel(origin.model, origin.tokenizer)
        data = reward_data(pairs, model, measured_by(config, origin, hook), hook)
        precision, reason = choose_precision(config.precision, origin.model.device)
        hook.on_notice(f"precision {precision}: {reason}")
        state = RewardState(
            planned_steps=data.steps(config),
            precision=precision,
            trunk=_digest(request.origin),
            pairs=pairs.fingerprint,
        )
        return cls(preset, model, data, state, _Surroundings(request, store, hook, origin.folder))

    @classmethod
    def continued(
        cls, request: RewardRequest, store: Store, hook: Hook, preset: Preset, snapshot: Snapshot, state: RewardState
    ) -> "_Training":
        """Raises: ResumeMismatch when the model to start from, or the pairs, are not those of the run."""
        store.require_space(snapshot.size_bytes)
        if state.trunk != _digest(request.origin):
            raise ResumeMismatch(
                "the run began with other weights than those that are here now",
                where=str(request.origin),
                hint="name the same snapshot with --from DIR, or start another run with --run OTHER",
            )
        pairs = read_preferences(preset, hook)
        if state.pairs != pairs.fingerprint:
            raise ResumeMismatch(
                "the run was trained on other preference pairs, or on another part of them",
                where="rl.pairs",
                hint="restore them, or start another run with --run OTHER",
            )
        folder = snapshot_folder(request.run)
        tokenizer, device = Tokenizer.load(folder), choose_device(request.device)
        with within_memory(BUILDING.failure):
            trunk = preset.model.build(snapshot.config["vocab_size"]).to(device).eval()
        model = RewardModel(trunk, tokenizer)
        measure: Measure = measures_nothing
        if preset.rl.reward_model.component_weight:
            measure = measured_by(preset.rl.reward_model, load(request.origin, request.device), hook)
        data = reward_data(pairs, model, measure, hook)
        training = cls(preset, model, data, state, _Surroundings(request, store, hook, folder))
        training.backend.restore(Tensors({**snapshot.model, **snapshot.heads}, snapshot.optimizer))
        return training

    def __init__(
        self, preset: Preset, model: RewardModel, data: RewardData, state: RewardState, around: "_Surroundings"
    ) -> None:
        self._preset, self._model, self._data, self._state, self._around = preset, model, data, state, around
        with within_memory(BUILDING.failure):
            self.backend = _backend(preset, model, state.precision)

    def run(self) -> None:
        around, folder = self._around, RunFolder(self._around.request.run)
        saver = SnapshotSaver(
            around.store, self._preset, self._model.trunk, self._model.tokenizer, around.tokenizer_folder, kind="reward"
        )
        folder.write_preset(self._preset)
        recorders = [MetricsFile(folder.metrics, around.hook.on_notice), TensorBoard(folder.tensorboard)]
        hooks = Hooks([*recorders, around.hook])
        config = self._preset.rl.reward_model
        RewardTrainer(config, self.backend, self._model, self._data, saver, hooks).run(self._state)


@dataclass(frozen=True)
class _Surroundings:
    """What was asked for, where snapshots go, who listens, and where the tokenizer's files lie."""

    request: RewardRequest
    store: Store
    hook: Hook
    tokenizer_folder: Path


def _own_preset(request: RewardRequest, origin: Loaded, hook: Hook) -> Preset:
    """The preset of a run that begins: with the decoder and the tokenizer of the model to start from."""
    preset = request.preset or resolve_values(
        origin.preset.model_dump(mode="json"), str(origin.folder / "preset.json"), request.sets
    )
    own = {"model": origin.preset.model, "tokenizer": origin.preset.tokenizer}
    if any(getattr(preset, section) != value for section, value in own.items()):
        hook.on_notice(
            f"model and tokenizer are those of {request.origin}; what preset {preset.name} says of them does not hold"
        )
    return preset.model_copy(update=own)


def _backend(preset: Preset, model: RewardModel, precision: str) -> Backend:
    config = preset.rl.reward_model
    objective = PreferenceObjective(model)
    parts = {name: weight for name, weight in preset.model.loss_weights.items() if name != "token"}
    loss_weights = {"preference": 1.0, "components": config.component_weight, **parts}
    training = TrainingConfig(optimizer=config.optimizer, max_grad_norm=config.max_grad_norm, backend="torch")
    return build_backend(training, objective, loss_weights, precision, Place())


def _digest(origin: Path) -> str:
    """Of the weights to start from.  Raises: UserMistake when there are none."""
    return read_manifest(snapshot_folder(origin)).files[MODEL].sha256
