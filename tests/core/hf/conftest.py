"""Snapshot folders of small untrained models."""

from collections.abc import Callable
from pathlib import Path

import pytest

from dreamlm.checkpoints.manifest import Record
from dreamlm.checkpoints.snapshot import Snapshot, write_snapshot
from dreamlm.checkpoints.store import Store
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.tokenizer import BytePair, Tokenizer
from dreamlm.wiring.saver import transformers_config


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(BytePair(vocab_size=300), ["the cat sat on the mat and saw the sea"] * 5)


@pytest.fixture
def snapshot_of(tmp_path: Path, tokenizer: Tokenizer) -> Callable[[DreamLM], Path]:
    def save(model: DreamLM) -> Path:
        tokenizer.save(tmp_path / "tokenizer")
        snapshot = Snapshot(
            model=dict(model.named_parameters()),
            optimizer={},
            state={},
            config=transformers_config(model, tokenizer),
            preset={},
            tokenizer_files={path.name: path.read_bytes() for path in (tmp_path / "tokenizer").iterdir()},
        )
        record = Record(step=1, tokens=1, finite=True)
        return Store(tmp_path).commit(record, lambda folder: write_snapshot(folder, snapshot), expected_bytes=0)

    return save
