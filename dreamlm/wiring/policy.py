"""`dreamlm rl ppo`: a checkpoint, prompts and a run folder become a policy trainer, and the trainer runs.

1. lock and repair the run, read its newest snapshot if there is one, else that of the checkpoint; refuse differences
2. freeze the reference, and the reward model if there is one, in the run's folder; read the prompts
3. build policy, critic, judge, backend; take over the snapshot
4. run
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from dreamlm.checkpoints.frozen import freeze, thawed
from dreamlm.checkpoints.manifest import Record, read_manifest
from dreamlm.checkpoints.snapshot import Snapshot, read_snapshot
from dreamlm.checkpoints.store import Store
from dreamlm.core.errors import ResumeMismatch, UserMistake
from dreamlm.core.heads.value import ValueHead
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.objectives.ppo import UNTRAINED, PolicyObjective
from dreamlm.core.rl.collect import Collector
from dreamlm.core.rl.config import PolicyConfig
from dreamlm.core.rl.policy import Policy
from dreamlm.core.rl.reference import Reference
from dreamlm.core.rl.rewards.mix import Rewards
from dreamlm.core.rl.rollout import Vocabulary
from dreamlm.core.rl.state import PolicyState
from dreamlm.core.rl.trainer import PolicyTrainer
from dreamlm.core.tokenizer import Tokenizer
from dreamlm.core.training.backend.backend import Backend, Tensors
from dreamlm.core.training.backend.choose import build_backend, choose_backend
from dreamlm.core.training.backend.process_group import Place, as_the_first_rank, first_rank_first, gathered
from dreamlm.core.training.config import TrainingConfig
from dreamlm.core.training.hooks import Hook, Hooks, RunEnd
from dreamlm.core.training.memory import BUILDING, within_memory
from dreamlm.core.training.precision import choose_precision
from dreamlm.core.training.recorders import MetricsFile, ReportFile, TensorBoard
from dreamlm.data_sources.prompts import Prompts, read_prompts
from dreamlm.data_sources.sources.source import SourceContext, SourceReport
from dreamlm.presets.layers import Assignment
from dreamlm.presets.resolve import resolve_values
from dreamlm.presets.schema import Preset
from dreamlm.wiring.loading import choose_device, snapshot_folder, training_state
from dreamlm.wiring.places import RunFolder, home
from dreamlm.wiring.resume import check_policy_resume
from dreamlm.wiring.reward import load_reward_model
from dreamlm.wiring.saver import NoSaver, SnapshotSaver

_COPIES = 4
"""Of the weights, on disk, before the first update: the reference, and a snapshot with two moments of Adam."""
REFERENCE, REWARD_MODEL = "reference", "reward_model"
"""Where a run keeps the model that its policy began as, and the one that judges its answers."""


@dataclass(frozen=True)
class PolicyRequest:
    """What the user asked for."""

    run: Path
    model: Path | None = None
    """Run or snapshot that the policy begins as; None goes on with the run."""
    preset: Preset | None = None
    """Whose `rl` and `generate` sections take the place of the model's own."""
    sets: Sequence[str | Assignment] = ()
    device: str = "auto"
    allow_changes: bool = False


def train_policy(request: PolicyRequest, hook: Hook) -> PolicyState:
    """Train until `rl.ppo.iterations`, or go on from the newest snapshot of the run.

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
            start = _start(request, store, hook)
            start.preset.rl.ppo.rollout.room(start.preset.model.seq_length)
            _check_shares(start.preset.rl.ppo, place)
            choose_backend(_training_config(start.preset.rl.ppo), place)
            prompts = _prompts(start.preset, hook)
            if first:
                store.require_space(_COPIES * start.model_bytes if start.fresh else start.snapshot.size_bytes)
            if first and start.fresh:
                _freeze_reward_model(start.preset, request.run)  # first: it may be refused
                freeze(start.snapshot, start.record, request.run / REFERENCE)
        training = _PolicyTraining(request.run, start, prompts, place, device, store if first else None, hook)
        return training.run()


@dataclass(frozen=True)
class _Start:
    """What a run begins or goes on with."""

    snapshot: Snapshot
    preset: Preset
    fresh: bool
    record: Record
    """Of the snapshot."""

    @property
    def model_bytes(self) -> int:
        return sum(weight.nbytes for weight in self.snapshot.model.values())


def _start(request: PolicyRequest, store: Store, hook: Hook) -> _Start:
    newest = store.latest()
    if newest is None:
        if request.model is None:
            raise UserMistake(
                "there is no run to continue here",
                where=str(request.run),
                hint="name a model to begin with: --from DIR",
            )
        folder = snapshot_folder(request.model)
        snapshot = read_snapshot(folder)
        return _Start(snapshot, _preset(snapshot, request, folder), True, read_manifest(folder).record)
    snapshot = read_snapshot(newest.path)
    preset = _preset(snapshot, request, newest.path)
    before = resolve_values(snapshot.preset, str(newest.path)).model_dump(mode="json")
    for sentence in check_policy_resume(before, preset, request.allow_changes):
        hook.on_notice(sentence)
    return _Start(snapshot, preset, False, newest.record)


def _preset(snapshot: Snapshot, request: PolicyRequest, folder: Path) -> Preset:
    """The preset inside the snapshot, with what the request says about reinforcement learning."""
    values = dict(snapshot.preset)
    if request.preset is not None:
        said = request.preset.model_dump(mode="json")
        values |= {section: said[section] for section in ("name", "rl", "generate")}
    return resolve_values(values, str(folder / "preset.json"), request.sets)


def _check_shares(config: PolicyConfig, place: Place) -> None:
    size = config.minibatch // place.world_size
    if config.minibatch % place.world_size or size % min(config.micro_batch, size):
        raise UserMistake(
            f"{place.world_size} processes cannot share a mini-batch of {config.minibatch} answers "
            f"in micro-batches of {config.micro_batch}",
            where="rl.ppo.minibatch",
            hint="choose a minibatch that is a multiple of processes times micro_batch",
        )


def _prompts(preset: Preset, hook: Hook) -> Prompts:
    reports: list[SourceReport] = []
    context = SourceContext(base_folder=Path.cwd(), cache_folder=home() / "cache", on_notice=hook.on_notice)
    prompts = read_prompts(preset.rl.prompts, preset.data.sources, context, reports, preset.rl.ppo.seed)
    dropped = sum(count for report in reports for count in report.drops.values())
    left_out = f", {dropped:,} left out" if dropped else ""
    hook.on_notice(f"prompts: {len(prompts.train):,} to learn from, {len(prompts.held_out):,} held out{left_out}")
    return prompts


def _freeze_reward_model(preset: Preset, run: Path) -> None:
    """Raises: NotAboveChance for a reward model that is no better than a coin; UserMistake when none is named."""
    if not preset.rl.scoring.learned:
        return
    if preset.rl.learned_from is None:
        raise UserMistake(
            "the learned reward has weight, but no reward model is named",
            where="rl.learned_from",
            hint="name a run of dreamlm rl reward, or set rl.scoring.learned to 0",
        )
    folder = load_reward_model(preset.rl.learned_from, "cpu").folder
    freeze(read_snapshot(folder), read_manifest(folder).record, run / REWARD_MODEL)


def _training_config(config: PolicyConfig) -> TrainingConfig:
    """What a backend needs to know."""
    return TrainingConfig(
        optimizer=config.optimizer,
        max_grad_norm=config.max_grad_norm,
        backend=config.backend,
        zero_stage=config.zero_stage,
    )


class _PolicyTraining:
    """Everything of one call to `train_policy`, put together."""

    def __init__(
        self,
        run: Path,
        start: _Start,
        prompts: Prompts,
        place: Place,
        device: torch.device,
        store: Store | None,
        hook: Hook,
    ) -> None:
        self._run, self._preset, self._prompts, self._hook = run, start.preset, prompts, hook
        self._config, self._device, self._store = start.preset.rl.ppo, device, store
        torch.set_float32_matmul_precision("high")  # TF32 where the GPU has it
        origin, digest = thawed(run / REFERENCE)
        self._tokenizer = Tokenizer.load(run / REFERENCE)
        state = None if start.fresh else PolicyState.from_json(start.snapshot.state)
        precision = state.precision if state else self._choose_precision()
        with within_memory(BUILDING.failure):
            reference = self._model(origin)
            never = Vocabulary.of(reference, self._tokenizer).never
            temperature = self._config.rollout.temperature
            policy = Policy(self._model(start.snapshot), temperature, never)
            value_head = ValueHead(start.preset.model.hidden_size).to(device)
            self._backend = self._build_backend(policy, value_head, precision, place)
            if state is not None:
                weights = {**start.snapshot.model, **start.snapshot.heads}
                self._backend.restore(Tensors(weights, start.snapshot.optimizer))
        self._collector = Collector(
            self._config,
            self._backend,
            policy,
            value_head,
            Policy(reference, temperature, never),
            self._tokenizer,
            self._judge(reference),
        )
        self._state = state or PolicyState(
            seed=self._config.seed,
            precision=precision,
            prompts=prompts.fingerprint,
            reference=digest,
            kl_coefficient=self._config.kl.initial,
            world_size=place.world_size,
            training=training_state(start.snapshot.state),
        )
        self._require_same(digest, place)

    def run(self) -> PolicyState:
        if self._state.step >= self._config.iterations:
            return self._already_finished()
        try:
            saver, hooks = self._listeners()
            trainer = PolicyTrainer(self._config, self._backend, self._collector, self._prompts, saver, hooks)
            return trainer.run(self._state)
        finally:
            self._backend.close()

    def _listeners(self) -> tuple[SnapshotSaver | NoSaver, Hook]:
        if self._store is None:
            return NoSaver(), Hook()
        folder = RunFolder(self._run)
        folder.write_preset(self._preset)
        metrics = MetricsFile(folder.metrics, self._hook.on_notice)
        recorders = [metrics, TensorBoard(folder.tensorboard), ReportFile(folder.report, folder.metrics)]
        saver = SnapshotSaver(
            self._store, self._preset, self._backend.model, self._tokenizer, self._run / REFERENCE, "rl"
        )
        return saver, Hooks([*recorders, self._hook])

    def _already_finished(self) -> PolicyState:
        state = self._state
        self._hook.on_notice(f"the run has its {state.step:,} iterations already; ask for more with rl.ppo.iterations")
        self._hook.on_end(
            RunEnd("already_finished", state.step, state.tokens, 0.0, None, None, None, state.last_reward)
        )
        self._backend.close()
        return state

    def _choose_precision(self) -> str:
        precision, reason = choose_precision(self._config.precision, self._device)
        self._hook.on_notice(f"precision {precision}: {reason}")
        return as_the_first_rank(precision, ("bf16", "fp32"), self._device)

    def _model(self, snapshot: Snapshot) -> DreamLM:
        model = self._preset.model.build(snapshot.config["vocab_size"])
        model.load_state_dict(dict(snapshot.model), strict=False)
        return model.to(self._device).eval()

    def _build_backend(self, policy: Policy, value_head: ValueHead, precision: str, place: Place) -> Backend:
        config = self._config
        objective = PolicyObjective(policy, value_head, config.clip, config.value_clip, config.algorithm)
        weights = {
            **self._preset.model.loss_weights,
            **dict.fromkeys(UNTRAINED, 0.0),
            "policy_loss": 1.0,
            "value_loss": config.value_coefficient,
            "entropy": -config.entropy_coefficient,
        }
        return build_backend(_training_config(config), objective, weights, precision, place)

    def _judge(self, reference: DreamLM) -> Rewards:
        scoring = self._preset.rl.scoring
        learned = load_reward_model(self._run / REWARD_MODEL, str(self._device)).score if scoring.learned else None
        return scoring.build(Reference(reference, self._tokenizer), learned=learned)

    def _require_same(self, digest: str, place: Place) -> None:
        """Raises: ResumeMismatch when reference, prompts or number of processes are not the run's."""
        state = self._state
        if state.reference != digest:
            what = "the reference is not the one that the run began with"
            raise ResumeMismatch(what, where=str(self._run / REFERENCE), hint="start another run with --run OTHER")
        if state.prompts != self._prompts.fingerprint:
            raise ResumeMismatch(
                "the prompts changed since the run began",
                where="rl.prompts",
                hint="restore them, or start another run with --run OTHER",
            )
        if state.world_size != place.world_size:
            raise ResumeMismatch(
                f"the run began with {state.world_size} processes, these are {place.world_size}",
                hint=f"continue with --nproc {state.world_size}",
            )
