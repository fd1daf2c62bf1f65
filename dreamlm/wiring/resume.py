"""What may differ between a run on disk and the request to continue it.

Free: what changes neither weights nor order. With `--allow-changes`: what changes how training goes on, but not what
is trained. Never: what would make another run of it.
"""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from dreamlm.checkpoints.snapshot import Snapshot
from dreamlm.core.errors import ResumeMismatch, UserMistake
from dreamlm.core.training.config import TrainingConfig
from dreamlm.core.training.memory import fitting
from dreamlm.presets.difference import differences
from dreamlm.presets.schema import Preset

FREE = (
    "name",
    "description",
    "extends",
    "eval",
    "generate",
    "rl",  # has commands of its own
    "train.train_tokens",
    "train.eval_tokens",
    "train.save_interval_*",
    "train.retry_seconds",
    "train.max_skipped_steps",
    "train.sanity_checks",
    "train.sample_prompts",
    "train.activation_checkpointing",
    "train.backend",
    "train.zero_stage",
    "train.per_gpu_batch_size",  # `check_step` looks at the windows of one step
    "train.accumulation_steps",
    "train.memory",
)
MEASURE = ("eval.bound_samples", "train.validation_tokens")
"""Which held-out text is measured, and how: never changed, since the best snapshot is chosen by it."""
ALLOWED = (
    "model.dropout",
    "model.modules.*.loss_start",
    "model.modules.*.loss_ramp",
    "model.stage",
    "model.vision.contrastive_weight",
    "model.vision.embedding_dropout",
    "model.vision.token_mask_prob",
    "train.optimizer.learning_rate",
    "train.optimizer.weight_decay",
    "train.optimizer.betas",
    "train.optimizer.epsilon",
    "train.optimizer.momentum",
    "train.optimizer.others.*",
    "train.max_grad_norm",
    "train.label_smoothing",
    "train.augmentation",
    "train.picture_augmentation",
    "train.curriculum",
    "train.lengths",
    "train.compile",
    "train.precision",
)


FREE_OF_POLICY = (
    "name",
    "description",
    "extends",
    "data",
    "train",
    "eval",
    "generate",
    "rl.pairs",
    "rl.reward_model",
    "rl.prompts",  # their fingerprint is compared
    "rl.ppo.iterations",
    "rl.ppo.eval_iterations",
    "rl.ppo.samples",
    "rl.ppo.save_*",
    "rl.ppo.retry_seconds",
    "rl.ppo.max_skipped_updates",
    "rl.ppo.micro_batch",
    "rl.ppo.rollout.rows",
    "rl.ppo.backend",
    "rl.ppo.zero_stage",
    "rl.ppo.alarms.pause",
)
ALLOWED_OF_POLICY = (
    "rl.ppo.epochs",
    "rl.ppo.clip",
    "rl.ppo.value_clip",
    "rl.ppo.value_coefficient",
    "rl.ppo.entropy_coefficient",
    "rl.ppo.discount",
    "rl.ppo.trace",
    "rl.ppo.kl",
    "rl.ppo.stop_kl",
    "rl.ppo.max_grad_norm",
    "rl.ppo.optimizer",
    "rl.ppo.alarms",
)
"""What the reward is, and on which prompts it is measured, stays: the best snapshot is chosen by it."""


def check_resume(before: Mapping[str, Any], now: Preset, allow_changes: bool) -> list[str]:
    """Sentences about accepted differences, to be shown.  Raises: ResumeMismatch listing every other one by key."""
    return _check(before, now, FREE, ALLOWED if allow_changes else (), ALLOWED, MEASURE)


def check_step(before: Mapping[str, Any], now: TrainingConfig, global_rows: int, processes: int) -> None:
    """A step of a run keeps its `global_rows` windows, whatever makes them up.

    `before`: the `train` section that the run has. On another number of processes its own settings go on, with more or
    fewer micro-batches in a step.

    Raises: ResumeMismatch naming settings, or numbers of processes, that make up the run's step.
    """
    rows, process_rows = now.per_gpu_batch_size, now.per_gpu_batch_size * now.accumulation_steps
    unchanged = process_rows == before["per_gpu_batch_size"] * before["accumulation_steps"]
    if process_rows * processes == global_rows or (unchanged and global_rows % (rows * processes) == 0):
        return
    step, in_processes = f"a step of this run has {global_rows} windows", _counted(processes)
    if global_rows % processes:
        raise ResumeMismatch(
            f"{step}, which {in_processes} cannot share equally",
            where="number of processes",
            valid=[str(number) for number in range(1, global_rows + 1) if global_rows % number == 0],
        )
    fits = fitting(rows, global_rows // processes)
    settings = {"per_gpu_batch_size": fits, "accumulation_steps": global_rows // processes // fits}
    options = " ".join(f"--set train.{name}={value}" for name, value in settings.items())
    raise ResumeMismatch(
        f"{step}, and per_gpu_batch_size {rows} * accumulation_steps {now.accumulation_steps} * {in_processes} "
        f"make {process_rows * processes}",
        where="train.per_gpu_batch_size",
        hint=f"{options} continues it here; start another run with --run OTHER for steps of another size",
    )


def check_policy_resume(before: Mapping[str, Any], now: Preset, allow_changes: bool) -> list[str]:
    """The same for a run of `dreamlm rl ppo`."""
    allowed = ALLOWED_OF_POLICY
    return _check(before, now, FREE_OF_POLICY, allowed if allow_changes else (), allowed)


def check_same_model(before: Mapping[str, Any], now: Preset) -> None:
    """A policy is the model that it begins as.  Raises: UserMistake naming what the request says otherwise."""
    keys = [
        f"  {key}: the model has {_shown(old)}, the request {_shown(new)}"
        for key, old, new in differences(before, now.model_dump(mode="json"))
        if key.startswith(("model.", "tokenizer."))
    ]
    if keys:
        what = "reinforcement learning does not change what the model is:\n" + "\n".join(keys)
        raise UserMistake(what, hint="leave these out; model.init_from of dreamlm train makes another model of it")


def require_optimizer(snapshot: Snapshot, updated: bool, run: Path, otherwise: str) -> None:
    """Raises: UserMistake when weights that were updated have no optimizer state, as in a run that was imported."""
    if updated and not snapshot.optimizer:
        raise UserMistake(
            "this run cannot go on: its snapshot holds no optimizer state", where=str(run), hint=otherwise
        )


def _check(
    before: Mapping[str, Any],
    now: Preset,
    free: tuple[str, ...],
    accepting: tuple[str, ...],
    allowed: tuple[str, ...],
    measure: tuple[str, ...] = (),
) -> list[str]:
    """`accepting` are the keys that may differ now, `allowed` those that could; `measure`: none of `free`."""
    accepted, refused = [], []
    for key, old, new in differences(before, now.model_dump(mode="json")):
        sentence = f"{key}: the run has {_shown(old)}, the request {_shown(new)}"
        if _any(key, free) and not _any(key, measure):
            continue
        if _any(key, accepting):
            accepted.append(f"continuing with a change: {sentence}")
        else:
            refused.append((key, sentence))
    if refused:
        raise ResumeMismatch(
            "the run on disk was started with other settings:\n"
            + "\n".join(f"  {sentence}" for _, sentence in refused),
            hint=_way_out([key for key, _ in refused], allowed, measure),
        )
    return accepted


def _way_out(refused: list[str], allowed: tuple[str, ...], measure: tuple[str, ...]) -> str:
    if all(_any(key, allowed) for key in refused):
        return "--allow-changes continues with the new values"
    if all(_any(key, measure) for key in refused):
        return (
            "a run is measured in one way, since its best snapshot is chosen by that: leave the change out, measure "
            "in another way with dreamlm eval, or start another run with --run OTHER"
        )
    return "start another run with --run OTHER, or leave --preset out to continue this one as it is"


def _counted(processes: int) -> str:
    return f"{processes} process" + ("es" if processes > 1 else "")


def _shown(value: Any) -> str:
    return "nothing" if value is None else repr(value)


def _any(key: str, patterns: tuple[str, ...]) -> bool:
    """Whether a pattern fits the key, or an object or list that it lies in."""
    return any(fnmatchcase(key, pattern) or fnmatchcase(key, f"{pattern}.*") for pattern in patterns)
