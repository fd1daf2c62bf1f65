"""From a folder on disk to a model that can be used."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dreamlm.checkpoints.snapshot import Snapshot, read_snapshot
from dreamlm.checkpoints.store import Store
from dreamlm.core.errors import CheckpointError, UserMistake
from dreamlm.core.modules.stage import Stage
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.nn.extension import extended
from dreamlm.core.nn.positions.positions import LayerChoice
from dreamlm.core.tokenizer import Tokenizer
from dreamlm.core.training.memory import LOADING, within_memory
from dreamlm.core.training.state import TrainingState
from dreamlm.presets.resolve import resolve_values
from dreamlm.presets.schema import ModelConfig, Preset


@dataclass(frozen=True)
class Loaded:
    """A trained model with everything that belongs to it, in evaluation mode."""

    model: DreamLM
    tokenizer: Tokenizer
    preset: Preset
    state: TrainingState
    folder: Path
    """The snapshot it came from."""


def load(
    path: str | Path,
    device: str = "auto",
    *,
    extend_max_seq_len: int | None = None,
    rescale_layers: LayerChoice | None = None,
) -> Loaded:
    """The model of a snapshot folder, or of a run folder's newest snapshot; every byte is verified.

    It is in the stage of its curriculum in which the snapshot was taken.
    extend_max_seq_len: tokens of a window, when more than in training; `Loaded.preset` then says so too.
    rescale_layers: which layers see positions re-scaled for that, while others keep theirs; None is those re-scaled
    before, or all.

    Raises: UserMistake when there is none, or it cannot be extended so; CheckpointError when it is damaged.
    """
    if rescale_layers is not None and extend_max_seq_len is None:
        raise UserMistake("layers are re-scaled for an extension only", hint="say how far to extend the model too")
    folder = snapshot_folder(Path(path))
    snapshot = read_snapshot(folder)
    preset = resolve_values(snapshot.preset, str(folder / "preset.json"))
    tokenizer = Tokenizer.load(folder)
    weights = dict(snapshot.model)
    on_device = choose_device(device)
    with within_memory(LOADING.failure):
        config = configuration(preset, snapshot)
        if extend_max_seq_len is not None:
            config, weights = extended(config, weights, extend_max_seq_len, rescale_layers)
        preset = preset.model_copy(update={"model": config})
        model = config.build(snapshot.config["vocab_size"]).to(on_device)
        fill(model, weights, folder)
    return Loaded(
        model.eval(), tokenizer, preset, TrainingState.from_json(dict(training_state(snapshot.state))), folder
    )


def configuration(preset: Preset, snapshot: Snapshot) -> ModelConfig:
    """What the model of a snapshot is built from: the preset's, in the stage that the snapshot was taken in.

    Only `config.json` tells of the stage; a preset says what a run was asked for, whatever stage it is in.
    """
    stage = snapshot.config.get("stage")
    return preset.model if stage is None else preset.model.model_copy(update={"stage": Stage.model_validate(stage)})


def model_like(preset: Preset, snapshot: Snapshot) -> DreamLM:
    """A model with fresh weights of the shape, and in the stage, of a snapshot's."""
    return configuration(preset, snapshot).build(snapshot.config["vocab_size"])


def fill(model: DreamLM, weights: Mapping[str, Tensor], folder: Path) -> None:
    """Give a model the weights of a snapshot, all of them.  Raises: CheckpointError naming what is missing."""
    lacking = model.load_state_dict(weights, strict=False).missing_keys
    tied = {"head.weight"} if model.config.tie_embeddings else set()
    if missing := [name for name in lacking if name not in tied]:
        hint = "dreamlm ckpt list shows the run's other snapshots; dreamlm ckpt rotate goes back to one"
        raise CheckpointError(f"the snapshot lacks {', '.join(missing)}", where=str(folder), hint=hint)


def training_state(state: Mapping[str, Any]) -> Mapping[str, Any]:
    """The state of the training behind a snapshot, whether of training itself or of what came after it."""
    inner: Mapping[str, Any] = state.get("training", state)
    return inner


def snapshot_folder(path: Path) -> Path:
    """The snapshot that a path means: itself, or the newest of the run.  Raises: UserMistake when there is none."""
    if (path / "manifest.json").exists():
        return path
    newest = Store(path).latest() if (path / "checkpoints").is_dir() else None
    if newest is None:
        raise UserMistake(
            "there is no snapshot here" if path.exists() else "this folder does not exist",
            where=str(path),
            hint="name a run folder with --run DIR, or a snapshot with --checkpoint DIR; dreamlm train makes one",
        )
    return newest.path


def choose_device(name: str) -> torch.device:
    """The device of a name; `auto` takes a GPU where there is one.  Raises: UserMistake for one that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserMistake(
            f"device {name!r} cannot be used: {reason}", valid=["auto", "cpu", "cuda", "cuda:N"]
        ) from error
    return device
