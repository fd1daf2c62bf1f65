"""The public way to a trained model."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import dreamlm
from dreamlm.checkpoints.manifest import Record
from dreamlm.checkpoints.snapshot import read_snapshot, write_snapshot
from dreamlm.checkpoints.store import Store
from dreamlm.core.errors import CheckpointError, UserMistake
from dreamlm.wiring.loading import choose_device

Trained = Callable[..., Path]


def test_a_run_loads_and_knows_its_text(trained: Trained) -> None:
    loaded = dreamlm.load(trained("train.train_tokens=6144", "train.optimizer=muon"), device="cpu")
    ids = torch.tensor([[loaded.tokenizer.end_of_document_id, *loaded.tokenizer.encode("the cat")]])
    hidden = loaded.model(ids, torch.zeros_like(ids), loaded.model.start(1)).hidden
    likely = loaded.model.logits(hidden)[0, -1].softmax(0)
    words = {loaded.tokenizer.encode(f" {word}")[0] for word in ("cat", "dog", "saw", "the", "a")}
    assert sum(likely[word].item() for word in words) > 0.1
    assert loaded.state.step == 24
    assert not loaded.model.training


def test_a_snapshot_and_its_run_give_the_same_weights(trained: Trained) -> None:
    run = trained()
    one, other = dreamlm.load(run), dreamlm.load(run / "checkpoints" / "lm_current")
    assert all(torch.equal(a, b) for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True))


def test_an_untied_head_is_loaded_too(trained: Trained) -> None:
    model = dreamlm.load(trained("model.tie_embeddings=false")).model
    assert model.head.weight is not model.embedding.weight
    assert not torch.equal(model.head.weight, model.embedding.weight)


def test_a_damaged_snapshot_is_never_loaded(trained: Trained) -> None:
    run = trained()
    weights = run / "checkpoints" / "lm_current" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        dreamlm.load(run)


@pytest.mark.parametrize("name", ["", "elsewhere"])
def test_a_folder_without_a_snapshot_is_an_error_that_helps(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserMistake, match=r"no snapshot here|does not exist") as caught:
        dreamlm.load(tmp_path / name)
    assert "--run DIR" in caught.value.hint


def test_a_device_that_is_not_there_is_a_mistake() -> None:
    with pytest.raises(UserMistake, match="'abacus' cannot be used") as caught:
        choose_device("abacus")
    assert "auto" in caught.value.valid


@pytest.mark.parametrize("name", ["head.weight", "norm.weight"])
def test_a_weight_that_the_snapshot_lacks_is_never_left_to_chance(trained: Trained, name: str) -> None:
    run = trained("model.tie_embeddings=false")
    whole = read_snapshot(run / "checkpoints" / "lm_current")
    lacking = replace(whole, model={key: value for key, value in whole.model.items() if key != name})
    Store(run).commit(Record(9, 9, True), lambda folder: write_snapshot(folder, lacking), expected_bytes=0)
    with pytest.raises(CheckpointError, match=f"lacks {name}"):
        dreamlm.load(run)
