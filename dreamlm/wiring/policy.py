"""`dreamlm rl ppo`: a checkpoint, prompts and a run folder become a policy trainer, and the trainer runs.

1. lock and repair the run, read its newest snapshot if there is one, else that of the checkpoint; refuse differences
2. freeze the reference, and the reward model if there is one, in the run's folder; read the prompts
3. build policy, critic, judge, backend; take over the snapshot
4. run
"""

from contextlib import nullcontext
from pathlib import Path

import torch

from dreamlm.checkpoints.frozen import freeze, thawed
from dreamlm.checkpoints.snapshot import Snapshot
from dreamlm.checkpoints.store import Store
from dreamlm.core.errors import ResumeMismatch, UserMistake
from dreamlm.core.heads.value import ValueHead
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.objectives.ppo import UNTRAINED, PolicyObjective
from dreamlm.core.rl.collect import Collector
from dreamlm.core.rl.config import PolicyConfig
from dreamlm.core.rl.policy import Policy
from dreamlm.core.rl.reference import Reference
from dreamlm.core.rl.rewards.creativity import GRAM_LENGTH, Seen, nothing_seen
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
from dreamlm.core.training.recorders import MetricsFile, ReportFile, complete_report
from dreamlm.core.training.tensorboard import TensorBoard
from dreamlm.data_sources.corpus import Corpus
from dreamlm.data_sources.prompts import Prompts
from dreamlm.data_sources.seen import SeenNgrams
from dreamlm.wiring.loading import choose_device, fill, model_like, training_state
from dreamlm.wiring.places import RunFolder, corpus_folder, home
from dreamlm.wiring.policy_start import (
    COPIES,
    REFERENCE,
    REWARD_MODEL,
    PolicyRequest,
    PolicyStart,
    check_shares,
    freeze_reward_model,
    prompts_of,
    start_of,
)
from dreamlm.wiring.reward import load_reward_model
from dreamlm.wiring.saver import NoSaver, SnapshotSaver


def train_policy(request: PolicyRequest, hook: Hook) -> PolicyState:
    """Train until `rl.ppo.iterations`, or go on from the newest snapshot of the run.

    Raises: UserMistake and its kind before anything is allocated; Interrupted after a signal, with a snapshot saved;
    Paused by an alarm, likewise; TrainingFailed, OutOfSpace, DataError, CheckpointError.
    """
    place = Place.from_environment()
    device = place.device() if request.device == "auto" else choose_device(request.device)
    first = place.rank == 0
    store = Store(request.run, on_notice=hook.on_notice)
    with gathered(place, device), store.lock() if first else nullcontext():
        with first_rank_first():
            for sentence in store.repair() if first else ():
                hook.on_notice(sentence)
            start = start_of(request, store, hook)
            start.preset.rl.ppo.rollout.room(start.preset.model.seq_length)
            choose_backend(_training_config(start.preset.rl.ppo), place, "rl.ppo")
            prompts = prompts_of(start.preset, hook)
            check_shares(start.preset.rl.ppo, prompts, place)
            if first:
                store.require_space(COPIES * start.model_bytes if start.fresh else start.snapshot.size_bytes)
            if first and start.fresh:
                freeze_reward_model(start.preset, request.run)  # first: it may be refused
                freeze(start.snapshot, start.record, request.run / REFERENCE)
        training = _PolicyTraining(request.run, start, prompts, place, device, store if first else None, hook)
        return training.run()


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
        start: PolicyStart,
        prompts: Prompts,
        place: Place,
        device: torch.device,
        store: Store | None,
        hook: Hook,
    ) -> None:
        self._run, self._preset, self._prompts, self._hook = run, start.preset, prompts, hook
        self._config, self._device, self._store = start.preset.rl.ppo, device, store
        self._fresh = start.fresh
        torch.set_float32_matmul_precision("high")  # TF32 where the GPU has it
        origin, digest = thawed(run / REFERENCE)
        self._tokenizer = Tokenizer.load(run / REFERENCE)
        state = None if start.fresh else PolicyState.from_json(start.snapshot.state)
        precision = state.precision if state else self._choose_precision()
        with within_memory(BUILDING.failure):
            reference = self._model(origin)
            vocabulary = Vocabulary.of(reference, self._tokenizer)
            temperature = self._config.rollout.temperature
            policy = Policy(self._model(start.snapshot), temperature, vocabulary)
            value_head = ValueHead(start.preset.model.hidden_size).to(device)
            self._backend = self._build_backend(policy, value_head, precision, place)
            if state is not None:
                weights = {**start.snapshot.model, **start.snapshot.heads}
                self._backend.restore(Tensors(weights, start.snapshot.optimizer))
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
        self._collector = Collector(
            self._config,
            self._backend,
            policy,
            value_head,
            Policy(reference, temperature, vocabulary),
            self._tokenizer,
            self._judge(reference),
        )

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
        RunFolder(self._run).write_preset(self._preset)
        metrics, report = self._files()
        if self._fresh:
            metrics.keep_until(-1)  # an earlier try left no snapshot, so nothing that it told has come to pass
        recorders = [metrics, TensorBoard(RunFolder(self._run).tensorboard), report]
        saver = SnapshotSaver(
            self._store, self._preset, self._backend.model, self._tokenizer, self._run / REFERENCE, "policy"
        )
        return saver, Hooks([*recorders, self._hook])

    def _files(self) -> tuple[MetricsFile, ReportFile]:
        folder = RunFolder(self._run)
        return MetricsFile(folder.metrics, self._hook.on_notice), ReportFile(folder.report, folder.metrics)

    def _already_finished(self) -> PolicyState:
        state = self._state
        if self._store is not None:
            end = RunEnd("finished", state.step, state.tokens, 0.0, None, None, None, state.last_reward)
            complete_report(*self._files(), end)
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
        model = model_like(self._preset, snapshot)
        fill(model, snapshot.model, self._run)
        return model.to(self._device).eval()

    def _build_backend(self, policy: Policy, value_head: ValueHead, precision: str, place: Place) -> Backend:
        config = self._config
        objective = PolicyObjective(policy, value_head, config.clip, config.value_clip, config.algorithm)
        weights = {
            **self._preset.model.loss_weights,
            **dict.fromkeys(UNTRAINED, 0.0),
            "policy_loss": 1.0,
            "pull": 1.0,
            "value_loss": config.value_coefficient,
            "entropy": -config.entropy_coefficient,
        }
        return build_backend(_training_config(config), objective, weights, precision, place)

    def _judge(self, reference: DreamLM) -> Rewards:
        scoring = self._preset.rl.scoring
        learned = load_reward_model(self._run / REWARD_MODEL, str(self._device)).score if scoring.learned else None
        return scoring.build(Reference(reference, self._tokenizer), self._seen(), learned)

    def _seen(self) -> Seen:
        """Which 4-grams the training text has, where the preset asks.  Raises: UserMistake when it is not there."""
        if self._preset.rl.copied_from == "prompt":
            return nothing_seen
        fingerprint = str(self._state.training["corpus"])
        corpus = Corpus.open(corpus_folder(self._preset, fingerprint))
        if corpus.fingerprint != fingerprint:
            raise UserMistake(
                "the corpus that the model was trained on is not here any more",
                where=str(corpus.folder),
                hint="set rl.copied_from=prompt, or prepare that corpus again",
            )
        return SeenNgrams.open(corpus, GRAM_LENGTH, home() / "cache")

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
