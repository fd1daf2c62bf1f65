"""`dreamlm train`: a preset and a run folder become a trainer, and the trainer runs.

1. lock and repair the run, read its newest snapshot if there is one, refuse differences by name
2. prepare or open the corpus
3. build model, backend, stream, schedule; take over the snapshot
4. run
"""

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from dreamlm.checkpoints.snapshot import Snapshot, read_snapshot
from dreamlm.checkpoints.store import Store
from dreamlm.core.errors import UserMistake
from dreamlm.core.evaluation.likelihood import likelihood_of
from dreamlm.core.generation.generate import generate
from dreamlm.core.objectives.choose import augmentation_of, objective_of, picture_augmentation_of
from dreamlm.core.rng import derive_seed
from dreamlm.core.training.backend.backend import Backend, Tensors
from dreamlm.core.training.backend.choose import build_backend, choose_backend
from dreamlm.core.training.backend.process_group import Place, as_the_first_rank, first_rank_first, gathered
from dreamlm.core.training.hooks import Hook, Hooks, RunEnd, Sample
from dreamlm.core.training.loop import Trainer
from dreamlm.core.training.memory import BUILDING, fitting, launcher_limit, within_memory
from dreamlm.core.training.precision import choose_precision
from dreamlm.core.training.recorders import MetricsFile, ReportFile, complete_report
from dreamlm.core.training.sharing import validate_together
from dreamlm.core.training.state import Sizing, TrainingState
from dreamlm.core.training.surroundings import Surroundings, Validation
from dreamlm.core.training.tensorboard import TensorBoard
from dreamlm.data_sources.corpus import Corpus
from dreamlm.data_sources.progress import Progress
from dreamlm.data_sources.stream import CorpusStream
from dreamlm.presets.resolve import resolve_values
from dreamlm.presets.schema import Preset
from dreamlm.wiring.corpora import prepare_corpus
from dreamlm.wiring.loading import choose_device
from dreamlm.wiring.origin import completed, initial_model
from dreamlm.wiring.places import RunFolder
from dreamlm.wiring.resume import check_resume, check_step, require_optimizer
from dreamlm.wiring.saver import NoSaver, SnapshotSaver

_LEAST_COPIES = 2
"""A snapshot holds the weights, and of each optimizer at least one number for every weight."""


@dataclass(frozen=True)
class TrainRequest:
    """What the user asked for."""

    preset: Preset | None
    """None continues the run with the preset of its newest snapshot."""
    run: Path
    sets: Sequence[str] = ()
    """Applied to the snapshot's preset when `preset` is None."""
    corpus: Path | None = None
    device: str = "auto"
    workers: int | None = None
    allow_changes: bool = False


def train(request: TrainRequest, hook: Hook, progress: Progress) -> TrainingState:
    """Train until `train_tokens`, or go on from the newest snapshot of the run.

    Raises: UserMistake and its kind before anything is allocated; Interrupted after a signal, with a snapshot saved;
    TrainingFailed, OutOfSpace, DataError, CheckpointError.
    """
    place = Place.from_environment()
    device = place.device() if request.device == "auto" else choose_device(request.device)
    first = place.rank == 0
    store = Store(request.run, on_notice=hook.on_notice)
    with gathered(place, device), store.lock() if first else nullcontext():
        with first_rank_first():
            for sentence in store.repair() if first else ():
                hook.on_notice(sentence)
            snapshot = _newest(store)
            if snapshot is None:
                RunFolder(request.run).require_unbegun()
            preset = _preset(request, snapshot, hook)
            state = TrainingState.from_json(dict(snapshot.state)) if snapshot else None
            if state is not None and state.tokens >= preset.train.train_tokens:
                end = _finished(state, preset)
                if first:
                    _complete_report(RunFolder(request.run), end, hook)
                hook.on_notice(f"the run has its {state.tokens:,} tokens already; ask for more with train.train_tokens")
                hook.on_end(replace(end, reason="already_finished"))
                return state
            if snapshot is not None and state is not None:
                check_step(snapshot.preset["train"], preset.train, state.global_rows, place.world_size)
                another = (
                    f"model.init_from={request.run} starts another, with a preset without model sizes and tokenizer"
                )
                require_optimizer(snapshot, state.tokens > 0, request.run, another)
            if first and snapshot is not None:
                store.require_space(snapshot.size_bytes)
            choose_backend(preset.train, place)  # what cannot train is said before a corpus is prepared
            trained_on = str(snapshot.state["corpus"]) if snapshot else ""
            corpus = prepare_corpus(preset, progress, request.corpus, request.workers, trained_on)
        around = _Surrounding(place, device, store if first else None, hook)
        return _Training(request.run, preset, corpus, snapshot, state, around).run()


def _newest(store: Store) -> Snapshot | None:
    info = store.latest()
    return read_snapshot(info.path) if info else None


def _preset(request: TrainRequest, snapshot: Snapshot | None, hook: Hook) -> Preset:
    if snapshot is None:
        if request.preset is None:
            raise UserMistake(
                "there is no run to continue here", where=str(request.run), hint="start one with --preset NAME"
            )
        return completed(request.preset)
    where = str(request.run / "checkpoints")
    if request.preset is None:
        preset = resolve_values(snapshot.preset, where, request.sets)
    else:
        preset = completed(request.preset, snapshot.preset)
    # Resolved again, so that a key which is newer than the run counts with its default.
    before = resolve_values(snapshot.preset, where).model_dump(mode="json")
    for sentence in check_resume(before, preset, request.allow_changes):
        hook.on_notice(sentence)
    return preset


def _finished(state: TrainingState, preset: Preset) -> RunEnd:
    """The end of a run that has all its tokens."""
    figures = (0.0, None, state.last_validation_loss, None)
    return RunEnd("finished", state.step, state.tokens, *figures, is_bound=preset.model.fills_blocks)


def _complete_report(folder: RunFolder, end: RunEnd, hook: Hook) -> None:
    metrics, report = MetricsFile(folder.metrics, hook.on_notice), ReportFile(folder.report, folder.metrics)
    complete_report(metrics, report, end)


@dataclass(frozen=True)
class _Surrounding:
    """Where this process runs, where its snapshots go (nowhere unless it is the first rank), and who listens."""

    place: Place
    device: torch.device
    store: Store | None
    hook: Hook


class _Training:
    """Everything of one call to `train`, put together."""

    def __init__(
        self,
        run: Path,
        preset: Preset,
        corpus: Corpus,
        snapshot: Snapshot | None,
        state: TrainingState | None,
        around: _Surrounding,
    ) -> None:
        self._preset, self._corpus, self._around = preset, corpus, around
        self._folder = RunFolder(run)
        self._tokenizer = corpus.tokenizer()
        torch.set_float32_matmul_precision("high")  # TF32 where the GPU has it
        self._rows = preset.train.memory.build(around.device)
        before = dict(snapshot.preset["train"]) if snapshot else {}
        same = state is not None and before["precision"] == preset.train.precision
        precision = state.precision if state and same else self._choose_precision()
        with within_memory(BUILDING.failure):
            self._backend = self._build_backend(precision, snapshot)
            if snapshot is not None:
                self._backend.restore(Tensors(snapshot.model, snapshot.optimizer))
        self._stream = CorpusStream(corpus, preset.data, preset.model.seq_length, preset.train.seed)
        self._held_out = corpus.held_out(preset.model.seq_length, preset.train.validation_tokens, preset.data.packing)
        self._state = self._continued(state, before, precision) if state else self._first_state(precision)

    def run(self) -> TrainingState:
        train = self._preset.train
        schedule = train.schedule.build(self._state.planned_steps)
        try:
            trainer = Trainer(train, self._backend, self._stream, schedule, self._surroundings())
            imported = self._preset.model.init_from is not None
            return trainer.run(self._state, fresh=self._state.step == 0, imported=imported)
        finally:
            self._backend.close()

    def _surroundings(self) -> Surroundings:
        if self._around.store is None:
            return Surroundings(NoSaver(), Hook(), self._validate, self._sample, self._tokenizer.padding_id, self._rows)
        self._folder.write_preset(self._preset)
        recorders = [
            MetricsFile(self._folder.metrics, self._around.hook.on_notice),
            TensorBoard(self._folder.tensorboard),
            ReportFile(self._folder.report, self._folder.metrics),
        ]
        saver = SnapshotSaver(
            self._around.store, self._preset, self._backend.model, self._tokenizer, self._corpus.folder
        )
        hooks = Hooks([*recorders, self._around.hook])
        return Surroundings(saver, hooks, self._validate, self._sample, self._tokenizer.padding_id, self._rows)

    def _choose_precision(self) -> str:
        precision, reason = choose_precision(self._preset.train.precision, self._around.device)
        self._around.hook.on_notice(f"precision {precision}: {reason}")
        return as_the_first_rank(precision, ("bf16", "fp32"), self._around.device)

    def _build_backend(self, precision: str, snapshot: Snapshot | None) -> Backend:
        train = self._preset.train
        torch.manual_seed(derive_seed(train.seed, "weights"))
        if snapshot is None:
            model = initial_model(self._preset, self._tokenizer.vocab_size)
            if self._around.store is not None:
                self._around.store.require_space(_LEAST_COPIES * sum(weight.nbytes for weight in model.parameters()))
        else:
            model = self._preset.model.build(snapshot.config["vocab_size"])
        model.to(self._around.device)
        model.checkpoint_activations(train.activation_checkpointing)
        augmentation = augmentation_of(train.augmentation, model, self._tokenizer)
        pictures = picture_augmentation_of(train.picture_augmentation)
        objective = objective_of(model, train.label_smoothing, self._tokenizer.padding_id, augmentation, pictures)
        return build_backend(train, objective, self._preset.model.loss_weights, precision, self._around.place)

    def _first_state(self, precision: str) -> TrainingState:
        train = self._preset.train
        rows = train.per_gpu_batch_size * train.accumulation_steps * self._backend.world_size
        state = TrainingState(
            seed=train.seed,
            planned_steps=math.ceil(train.train_tokens / (rows * self._stream.targets_per_window)),
            global_rows=rows,
            micro_rows=train.per_gpu_batch_size,
            precision=precision,
            corpus=self._corpus.fingerprint,
            cursor=self._stream.start(),
        )
        return self._within_limits(state, train.per_gpu_batch_size)

    def _continued(self, state: TrainingState, before: Mapping[str, Any], precision: str) -> TrainingState:
        """The state with precision and micro-batch of now; the windows of one step stay the run's.

        A micro-batch that memory made smaller or larger stays so, unless another size than `before` is asked for.
        """
        train = self._preset.train
        asked = train.per_gpu_batch_size
        if asked != before["per_gpu_batch_size"]:
            state = replace(state, micro_rows=asked, sizing=Sizing())
        most = asked if train.memory.target is None else state.global_rows
        return self._within_limits(replace(state, precision=precision), most)

    def _within_limits(self, state: TrainingState, most_rows: int) -> TrainingState:
        """With a micro-batch that a process's step is made of, and that its launcher did not see run out of memory."""
        limit = launcher_limit()
        if limit is not None:
            most_rows, state = min(limit, most_rows), replace(state, sizing=state.sizing.ran_out(limit))
        process_rows = state.global_rows // self._backend.world_size
        return replace(state, micro_rows=fitting(min(most_rows, state.micro_rows), process_rows))

    def _validate(self) -> Validation:
        measuring = self._preset.eval
        likelihood = likelihood_of(self._backend.model, self._tokenizer.padding_id, measuring.bound_samples)
        names = self._corpus.source_names
        return validate_together(self._backend, self._held_out, measuring.rows, names, likelihood)

    def _sample(self, step: int) -> list[Sample]:
        prompts = self._preset.train.sample_prompts
        with self._backend.autocast():
            texts = generate(self._backend.model, self._tokenizer, prompts, self._preset.generate)
        return [Sample(step, generation.prompt, generation.text) for generation in texts]
