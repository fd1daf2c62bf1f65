"""A frozen model is there whole or not at all, wherever the process that kept it was stopped."""

from pathlib import Path

import pytest
import torch
from faulty_files import Crash, FaultyFiles

from dreamlm.checkpoints.frozen import freeze, thawed
from dreamlm.checkpoints.manifest import Record
from dreamlm.checkpoints.snapshot import Snapshot
from dreamlm.core.errors import CheckpointError

RECORD = Record(step=3, tokens=30, finite=True)


def model(value: float) -> Snapshot:
    return Snapshot(
        model={"weight": torch.full((2, 3), value)},
        heads={},
        optimizer={"weight/step": torch.tensor(1.0)},
        state={"step": 3},
        config={"vocab_size": 3},
        preset={"name": "small"},
        tokenizer_files={"tokenizer.json": b"{}"},
    )


def test_what_was_frozen_thaws_without_its_optimizer(tmp_path: Path) -> None:
    freeze(model(1.5), RECORD, tmp_path / "reference")
    found, digest = thawed(tmp_path / "reference")
    assert torch.equal(found.model["weight"], torch.full((2, 3), 1.5))
    assert found.optimizer == {}
    freeze(model(2.5), RECORD, tmp_path / "other")
    assert thawed(tmp_path / "other")[1] != digest


def test_stopped_before_any_operation_it_is_whole_or_missing_and_the_next_try_succeeds(tmp_path: Path) -> None:
    files = FaultyFiles()
    freeze(model(1.5), RECORD, tmp_path / "whole", files)
    assert files.operations >= 4
    missing = 0
    for operation in range(files.operations):
        folder = tmp_path / str(operation) / "reference"
        with pytest.raises(Crash):
            freeze(model(1.5), RECORD, folder, FaultyFiles(operation))
        try:
            found, _ = thawed(folder)
            assert torch.equal(found.model["weight"], torch.full((2, 3), 1.5))
        except CheckpointError:
            missing += 1
            assert not folder.exists()
        freeze(model(2.5), RECORD, folder)
        assert torch.equal(thawed(folder)[0].model["weight"], torch.full((2, 3), 2.5))
        assert [path.name for path in folder.parent.iterdir()] == ["reference"]
    assert 0 < missing < files.operations


def test_losing_what_was_not_synced_harms_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "reference"
    files = FaultyFiles()
    freeze(model(1.5), RECORD, folder, files)
    files.lose_unsynced(folder, set())
    assert torch.equal(thawed(folder)[0].model["weight"], torch.full((2, 3), 1.5))


def test_a_changed_byte_is_found(tmp_path: Path) -> None:
    freeze(model(1.5), RECORD, tmp_path / "reference")
    weights = tmp_path / "reference" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        thawed(tmp_path / "reference")
