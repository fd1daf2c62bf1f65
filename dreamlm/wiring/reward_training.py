"""`dreamlm rl reward`: a trained model and preference pairs become a reward model.

1. lock and repair the run, read its newest snapshot if there is one, else the model to start from; refuse differences
2. read the pairs; the first process measures what the components are to mean
3. build the reward model, its objective and its backend; take over the snapshot
4. run, and write down what the offered snapshot is worth
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch

from dreamlm.checkpoints.snapshot import read_snapshot
from dreamlm.checkpoints.store import Store
from dreamlm.core.errors import CheckpointError
from dreamlm.core.evaluation.preference import PreferenceReport
from dreamlm.core.objectives.preference import PreferenceObjective, untrained
from dreamlm.core.rl.answer import Answer
from dreamlm.core.rl.pair_reading import Measure, measures_nothing
from dreamlm.core.rl.pair_sharing import check_pair_shares
from dreamlm.core.rl.reward_config import RewardConfig
from dreamlm.core.rl.reward_model import RewardModel
from dreamlm.core.rl.reward_state import RewardState
from dreamlm.core.rl.reward_training import RewardTrainer
from dreamlm.core.tokenizer import Tokenizer
from dreamlm.core.training.backend.backend import Backend, Tensors
from dreamlm.core.training.backend.choose import build_backend, choose_backend
from dreamlm.core.training.backend.process_group import (
    Place,
    as_the_first_rank,
    first_rank_first,
    from_the_first_rank,
    gathered,
)
from dreamlm.core.training.config import TrainingConfig
from dreamlm.core.training.hooks import Hook, Hooks, RunEnd
from dreamlm.core.training.memory import BUILDING, within_memory
from dreamlm.core.training.precision import choose_precision
from dreamlm.core.training.recorders import MetricsFile
from dreamlm.core.training.tensorboard import TensorBoard
from dreamlm.data_sources.pairs import Pairs
from dreamlm.wiring.loading import choose_device, fill, load, model_like
from dreamlm.wiring.places import RunFolder
from dreamlm.wiring.preferences import measured_by, reward_data
from dreamlm.wiring.reward_start import RewardRequest, RewardStart, pairs_of, start_of
from dreamlm.wiring.saver import NoSaver, SnapshotSaver


def train_reward(request: RewardRequest, hook: Hook) -> PreferenceReport:
    """Fit a reward model to preferences, or go on from the newest snapshot of the run; what its best snapshot is worth.

    Raises: UserMistake and its kind before anything is allocated; Interrupted after a signal, with a snapshot saved;
    MicroBatchTooLarge when several processes must be started again; TrainingFailed, OutOfSpace, DataError,
    CheckpointError.
    """
    place = Place.from_environment()
    device = place.device() if request.device == "auto" else choose_device(request.device)
    around = _Surroundings(request, Store(request.run, on_notice=hook.on_notice), hook, place, device)
    with gathered(place, device), around.store.lock() if around.first else nullcontext():
        with first_rank_first():
            for sentence in around.store.repair() if around.first else ():
                hook.on_notice(sentence)
            start = start_of(request, around.store, hook)
            if start.finished:
                _say_finished(start, hook)
                return _report(around)
            config = start.preset.rl.reward_model
            choose_backend(_training_config(config), place, "rl.reward_model")
            check_pair_shares(config.pairs_per_step, start.micro_pairs, place.world_size)
            if around.first:
                around.store.require_space(start.expected_bytes)
            pairs = pairs_of(start, hook)
            start = start.kept(around.first)
        return _RewardTraining(start, pairs, around).run()


@dataclass(frozen=True)
class _Surroundings:
    """What was asked for, where snapshots go, who listens, and where this process runs."""

    request: RewardRequest
    store: Store
    hook: Hook
    place: Place
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.place.rank == 0


def _say_finished(start: RewardStart, hook: Hook) -> None:
    state = start.state
    assert state is not None
    hook.on_notice("this reward model is finished already; train another with --run OTHER")
    loss = state.report.loss if state.report else None
    hook.on_end(RunEnd("already_finished", state.step, state.tokens, 0.0, None, loss, None))


def _report(around: _Surroundings) -> PreferenceReport:
    """What the best snapshot is worth; the first process writes it down beside it."""
    best = around.store.best()
    report = RewardState.from_json(read_snapshot(best.path).state).report if best else None
    if report is None:
        raise CheckpointError("no snapshot of this run was measured", where=str(around.store.folder))
    if around.first:
        path = around.request.run / "reward_report.json"
        temporary = path.with_suffix(".json.tmp")
        temporary.write_text(json.dumps(report.to_json(), indent=2) + "\n", encoding="utf-8")
        temporary.replace(path)
    return report


def _training_config(config: RewardConfig) -> TrainingConfig:
    """What a backend needs to know."""
    return TrainingConfig(
        optimizer=config.optimizer,
        max_grad_norm=config.max_grad_norm,
        backend=config.backend,
        zero_stage=config.zero_stage,
    )


class _RewardTraining:
    """Everything of one call to `train_reward`, put together."""

    def __init__(self, start: RewardStart, pairs: Pairs, around: _Surroundings) -> None:
        self._start, self._around, self._config = start, around, start.preset.rl.reward_model
        with within_memory(BUILDING.failure):
            trunk = model_like(start.preset, start.snapshot)
            fill(trunk, start.snapshot.model, start.folder)
            self._model = RewardModel(trunk.to(around.device).eval(), Tokenizer.load(start.folder))
        self._data = reward_data(pairs, self._model, self._measured_once(), around.hook)
        state = start.state or RewardState(
            planned_steps=self._data.steps(self._config),
            precision=self._choose_precision(),
            trunk=start.trunk,
            pairs=pairs.fingerprint,
        )
        fewer = start.micro_pairs < self._config.pairs_per_micro_batch
        self._state = replace(state, micro_pairs=start.micro_pairs if fewer else None)
        self._still = {name: weight.detach().cpu().clone() for name, weight in untrained(self._model).items()}
        with within_memory(BUILDING.failure):
            self._backend = self._build_backend()
            if start.state is not None:
                weights = {**start.snapshot.model, **start.snapshot.heads}
                self._backend.restore(Tensors(weights, start.snapshot.optimizer))

    def run(self) -> PreferenceReport:
        try:
            saver, hooks = self._listeners()
            trainer = RewardTrainer(self._config, self._backend, self._model, self._data, saver, hooks)
            trainer.run(self._state)
            with first_rank_first():
                return _report(self._around)
        finally:
            self._backend.close()

    def _listeners(self) -> tuple[SnapshotSaver | NoSaver, Hook]:
        around, folder = self._around, RunFolder(self._around.request.run)
        if not around.first:
            return NoSaver(), Hook()
        folder.write_preset(self._start.preset)
        saver = SnapshotSaver(
            around.store,
            self._start.preset,
            self._model.trunk,
            self._model.tokenizer,
            self._start.folder,
            kind="reward",
            untrained=self._still,
        )
        recorders = [MetricsFile(folder.metrics, around.hook.on_notice), TensorBoard(folder.tensorboard)]
        return saver, Hooks([*recorders, around.hook])

    def _measured_once(self) -> Measure:
        """By the first process: the others learn what it found, so that all of them teach the components the same."""
        measure: Measure = self._measure() if self._around.first else measures_nothing

        def measured(answers: Sequence[Answer]) -> Mapping[str, Sequence[float | None]]:
            return from_the_first_rank(measure(answers), self._around.device)

        return measured

    def _measure(self) -> Measure:
        if not self._config.component_weight:
            return measures_nothing
        model = self._model.trunk
        if self._start.state is not None:  # the run's own has learned since
            model = load(self._start.origin, str(self._around.device)).model
        return measured_by(model, self._model.tokenizer, self._around.hook)

    def _choose_precision(self) -> str:
        precision, reason = choose_precision(self._config.precision, self._around.device)
        self._around.hook.on_notice(f"precision {precision}: {reason}")
        return as_the_first_rank(precision, ("bf16", "fp32"), self._around.device)

    def _build_backend(self) -> Backend:
        config = self._config
        parts = {name: weight for name, weight in self._start.preset.model.loss_weights.items() if name != "token"}
        weights = {"preference": 1.0, "components": config.component_weight, **parts}
        objective = PreferenceObjective(self._model)
        return build_backend(_training_config(config), objective, weights, self._state.precision, self._around.place)
