"""What `--from` may name: a run, a snapshot, or a stock model, which is taken over as if a training had just begun."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dreamlm.checkpoints.manifest import MANIFEST, Record
from dreamlm.checkpoints.snapshot import Snapshot
from dreamlm.core.errors import UserMistake
from dreamlm.core.training.state import TrainingState
from dreamlm.core.types import Cursor
from dreamlm.presets.layers import Assignment
from dreamlm.presets.resolve import resolve_values
from dreamlm.presets.schema import Preset
from dreamlm.wiring.loading import snapshot_folder
from dreamlm.wiring.origin import completed, initial_model
from dreamlm.wiring.saver import transformers_config

TAKEN_OVER = Record(step=0, tokens=0, finite=True)
"""Of the snapshot of a stock model."""


def is_stock(model: Path) -> bool:
    """Whether a folder holds a model of transformers that dreamlm did not write."""
    return (model / "config.json").exists() and not (model / MANIFEST).exists()


def began_as(preset: Preset, model: Path) -> bool:
    """Whether a run with this preset began as the stock model of that folder, which need not be there any more."""
    name = preset.model.init_from
    return name is not None and Path(name).resolve() == model.resolve()


def begin_folder(model: Path) -> Path:
    """The snapshot that `--from` means.  Raises: UserMistake when there is none."""
    try:
        return snapshot_folder(model)
    except UserMistake as error:
        hint = "--from DIR names a run of dreamlm train, one of its snapshots, or a model folder of transformers"
        raise UserMistake(error.what, where=error.where, hint=hint) from error


def taken_over(
    model: Path, preset: Preset | None, sets: Sequence[str | Assignment], used: str
) -> tuple[Snapshot, Preset]:
    """A stock model as the snapshot of a training that took no step, and the preset of a run that begins with it.

    preset: what to do with the model, which has no preset inside; `used` says which of its sections count.
    Raises: UserMistake when there is no preset; as `Origin` does.
    """
    if preset is None:
        raise UserMistake(
            "a model of transformers has no preset inside",
            where=str(model),
            hint=f"name one with --preset NAME|FILE: {used}",
        )
    said = preset.model_dump(mode="json", exclude_unset=True)
    values: dict[str, Any] = {key: said[key] for key in ("name", "data", "rl", "generate") if key in said}
    asked = resolve_values({**values, "model": {"init_from": str(model.absolute())}}, preset.name, sets)
    whole = completed(asked)
    tokenizer = whole.tokenizer.build([])
    decoder = initial_model(whole, tokenizer.vocab_size)
    training = TrainingState(
        seed=whole.train.seed, planned_steps=0, global_rows=0, micro_rows=0, precision="", corpus="", cursor=Cursor()
    )
    snapshot = Snapshot(
        model={name: weight.detach() for name, weight in decoder.named_parameters()},
        optimizer={},
        state=training.to_json(),
        config=transformers_config(decoder, tokenizer),
        preset=whole.model_dump(mode="json"),
        tokenizer_files=tokenizer.files(),
    )
    return snapshot, whole
