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
    "train.validation_tokens",
    "train.save_interval_*",
    "train.retry_seconds",
    "train.max_skipped_steps",
    "train.sanity_checks",
    "train.sample_prompts",
    "train.activation_checkpointing",
    "train.backend",
    "train.zero_stage",
    "train.per_gpu_batch_size",  # the windows of one step are checked as a product
    "train.accumulation_steps",
    "train.memory",
)
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
    refused = []
    rows_before, rows_now = (_rows(values["train"]) for values in (before, now.model_dump(mode="json")))
    if rows_before != rows_now:
        what = f"per_gpu_batch_size * accumulation_steps: the run has {rows_before}, the request {rows_now}"
        refused.append(("train.per_gpu_batch_size", what))
    return _check(before, now, FREE, ALLOWED if allow_changes else (), ALLOWED, refused)


def check_policy_resume(before: Mapping[str, Any], now: Preset, allow_changes: bool) -> list[str]:
    """The same for a run of `dreamlm rl ppo`."""
    allowed = ALLOWED_OF_POLICY
    return _check(before, now, FREE_OF_POLICY, allowed if allow_changes else (), allowed, [])


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
    refused: list[tuple[str, str]],
) -> list[str]:
    """`accepting` are the keys that may differ now, `allowed` those that could."""
    accepted = []
    for key, old, new in differences(before, now.model_dump(mode="json")):
        sentence = f"{key}: the run has {_shown(old)}, the request {_shown(new)}"
        if _any(key, free):
            continue
        if _any(key, accepting):
            accepted.append(f"continuing with a change: {sentence}")
        else:
            refused.append((key, sentence))
    if refused:
        safe = all(_any(key, allowed) for key, _ in refused)
        raise ResumeMismatch(
            "the run on disk was started with other settings:\n"
            + "\n".join(f"  {sentence}" for _, sentence in refused),
            hint="--allow-changes continues with the new values"
            if safe
            else "start another run with --run OTHER, or leave --preset out to continue this one as it is",
        )
    return accepted


def _rows(train: Mapping[str, Any]) -> int:
    return int(train["per_gpu_batch_size"] * train["accumulation_steps"])


def _shown(value: Any) -> str:
    return "nothing" if value is None else repr(value)


def _any(key: str, patterns: tuple[str, ...]) -> bool:
    """Whether a pattern fits the key, or an object or list that it lies in."""
    return any(fnmatchcase(key, pattern) or fnmatchcase(key, f"{pattern}.*") for pattern in patterns)
