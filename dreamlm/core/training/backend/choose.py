"""Which backend a run uses, and what cannot go together; everything is checked before anything is allocated."""

from collections.abc import Mapping
from importlib import metadata
from typing import Literal

from dreamlm.core.errors import UserMistake
from dreamlm.core.objectives.objective import Objective
from dreamlm.core.training.backend import process_group
from dreamlm.core.training.backend.backend import Backend
from dreamlm.core.training.backend.process_group import Place
from dreamlm.core.training.backend.single import SingleProcess
from dreamlm.core.training.config import TrainingConfig
from dreamlm.core.training.optim import AdamW

TRIED_DEEPSPEED = (0, 19)
"""The line of releases whose inner parts `zero_tensors` was written against."""


def choose_backend(config: TrainingConfig, place: Place, section: str = "train") -> Literal["torch", "deepspeed"]:
    """Plain PyTorch in one process, DeepSpeed in several, unless the preset asks otherwise.

    `section`: where in the preset it asks.

    Raises: UserMistake for what cannot go together, or a DeepSpeed that is missing or of another line of releases.
    """
    if config.backend == "torch" and place.world_size > 1:
        raise UserMistake(
            f"the torch backend trains in one process, and there are {place.world_size}",
            where=f"{section}.backend",
            valid=["auto", "deepspeed"],
        )
    if config.backend != "deepspeed" and place.world_size == 1:
        return "torch"
    if config.zero_stage > 0 and not isinstance(config.optimizer, AdamW.Config):
        raise UserMistake(
            f"ZeRO stage {config.zero_stage} divides a matrix among processes, "
            f"and {config.optimizer.type} needs it whole",
            where="train.zero_stage",
            valid=["0"],
            hint="--set train.zero_stage=0, or --set train.optimizer=adamw",
        )
    if config.compile and config.zero_stage == 3:
        raise UserMistake(
            "torch.compile gains nothing where the weights of each layer are fetched as it runs (ZeRO stage 3)",
            where="train.compile",
            hint="--set train.compile=false, or train.zero_stage=2",
        )
    _check_deepspeed()
    return "deepspeed"


def build_backend(
    config: TrainingConfig,
    objective: Objective,
    loss_weights: Mapping[str, float],
    precision: str,
    place: Place,
) -> Backend:
    """The backend of this process; with DeepSpeed it waits until every rank has come.

    The objective's model is already on its device, with the same weights on every rank. `precision`: bf16 or fp32.
    """
    name = choose_backend(config, place)
    if name == "torch":
        return SingleProcess(objective, config.optimizer, loss_weights, config.max_grad_norm, precision, config.compile)
    process_group.join(place, objective.model.device)
    from dreamlm.core.training.backend.zero import ZeroBackend

    return ZeroBackend(
        objective,
        config.optimizer,
        loss_weights,
        config.max_grad_norm,
        precision,
        config.compile,
        config.zero_stage,
        place,
    )


def _check_deepspeed() -> None:
    try:
        installed = metadata.version("deepspeed")
    except metadata.PackageNotFoundError as error:
        raise UserMistake(
            "DeepSpeed is not installed, and training in several processes needs it",
            where="train.backend",
            hint="pip install 'deepspeed>=0.19.8,<0.20' (Linux only); one process trains without it",
        ) from error
    line = tuple(int(part) for part in installed.split(".")[:2])
    if line != TRIED_DEEPSPEED:
        raise UserMistake(
            f"deepspeed {installed} is installed; snapshots of divided weights are tried with 0.19 only",
            where="train.backend",
            hint="pip install 'deepspeed>=0.19.8,<0.20'",
        )
