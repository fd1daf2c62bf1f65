"""Turns what the trainer hands over into snapshots of the run's store."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, final

from torch import Tensor

from dreamlm.checkpoints.manifest import Kind, Record
from dreamlm.checkpoints.snapshot import Snapshot, write_snapshot
from dreamlm.checkpoints.store import Store
from dreamlm.core.errors import CheckpointError
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.objectives.objective import HEADS
from dreamlm.core.tokenizer import CONFIG_FILE, TOKENIZER_FILE, Tokenizer
from dreamlm.core.training.backend.backend import Tensors
from dreamlm.core.training.saving import RunState
from dreamlm.presets.schema import Preset


@final
class SnapshotSaver:
    """Implements `core.training.saving.Saver` on the process that writes."""

    def __init__(
        self,
        store: Store,
        preset: Preset,
        model: DreamLM,
        tokenizer: Tokenizer,
        folder: Path,
        kind: Kind = "train",
        untrained: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> None:
        """`folder` holds the tokenizer's files; `untrained`: weights of the model that stay as they are, on the CPU."""
        self._store, self._kind, self._untrained = store, kind, untrained
        self._model, self._tokenizer = model, tokenizer
        self._preset = preset.model_dump(mode="json")
        self._tokenizer_files = {name: (folder / name).read_bytes() for name in (TOKENIZER_FILE, CONFIG_FILE)}

    def save(self, state: RunState, tensors: Tensors) -> Path:
        trained = {name: weight for name, weight in tensors.model.items() if not name.startswith(HEADS)}
        snapshot = Snapshot(
            model={**trained, **self._untrained},
            heads={name: weight for name, weight in tensors.model.items() if name.startswith(HEADS)},
            optimizer=tensors.optimizer,
            state=state.to_json(),
            config=transformers_config(self._model, self._tokenizer),
            preset=self._preset,
            tokenizer_files=self._tokenizer_files,
        )
        record = Record(
            step=state.step,
            tokens=state.tokens,
            finite=state.skipped_in_a_row == 0 and all(bool(w.isfinite().all()) for w in tensors.model.values()),
            validation_loss=state.measured_loss,
            is_bound=self._kind == "train" and self._model.config.fills_blocks,
            kind=self._kind,
        )
        return self._store.commit(
            record, lambda folder: write_snapshot(folder, snapshot), expected_bytes=snapshot.size_bytes
        )

    def roll_back(self) -> int:
        finite = self._store.last_finite()
        if finite is None:
            raise CheckpointError("there is no finite snapshot to go back to", where=str(self._store.folder))
        self._store.rotate(finite.name)
        return finite.record.step


@final
class NoSaver:
    """The saver of a process that does not write: the first rank does."""

    def save(self, state: RunState, tensors: Tensors) -> Path:
        return Path()

    def roll_back(self) -> None:
        """The first process rolls back."""


def transformers_config(model: DreamLM, tokenizer: Tokenizer) -> Mapping[str, Any]:
    """`config.json`: the model's own configuration, under the keys by which transformers recognises a folder.

    It has the stage of a curriculum that the model is in just now, as `stage`.
    """
    return {
        "model_type": "dreamlm",
        "architectures": ["DreamLMForCausalLM"],
        "vocab_size": model.vocab_size,
        "bos_token_id": tokenizer.end_of_document_id,
        "eos_token_id": tokenizer.end_of_document_id,
        "pad_token_id": tokenizer.padding_id,
        # What transformers' generation must never choose: it was never a target.
        "suppress_tokens": [tokenizer.padding_id, *range(tokenizer.vocab_size, model.vocab_size)],
        **model.config.model_dump(mode="json"),
    }
