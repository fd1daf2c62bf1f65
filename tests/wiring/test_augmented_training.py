"""Augmentation and late losses as a preset asks for them: what goes together, what a run keeps, what may change."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from stock_models import save_stock
from workplace import Workplace

import dreamlm
from dreamlm.core.errors import PresetError, ResumeMismatch, UserMistake

Trained = Callable[..., Path]
MASK = "model.mask_vector=true"
ALL = "train.augmentation={}"
MORE = "train.train_tokens=2048"
SUMMARY = ('model.modules=[{"type": "segment_summary", "loss_start": 0.5}]', "model.segment_length=8")


def steps_of(run: Path) -> list[dict[str, Any]]:
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [event for event in events if event["event"] == "step"]


def test_dropped_tokens_want_a_mask_vector_in_a_causal_model(place: Workplace) -> None:
    with pytest.raises(PresetError) as caught:
        place.preset(ALL)
    assert "train.augmentation.token_dropout: replaces tokens by a mask vector" in str(caught.value)
    assert "model.mask_vector=true" in str(caught.value)
    place.preset(ALL, MASK)
    place.preset("train.augmentation.token_dropout=0")
    place.preset(ALL, "model.diffusion.block_size=8")


def test_a_run_is_augmented_and_keeps_its_mask_vector(place: Workplace, trained: Trained) -> None:
    run = trained(ALL, MASK, "train.augmentation.probability=0.5")
    assert len(steps_of(run)) == 6
    snapshot = run / "checkpoints" / "lm_current"
    assert load_file(snapshot / "model.safetensors")["mask_vector"].shape == (32,)
    assert json.loads((snapshot / "config.json").read_text())["mask_vector"] is True
    loaded = dreamlm.load(run, device="cpu")
    assert loaded.model.mask_vector is not None
    place.train(run, ALL, MASK, "train.augmentation.probability=0.5", MORE)
    assert len(steps_of(run)) == 8


def test_a_diffusion_run_is_augmented(trained: Trained) -> None:
    run = trained(ALL, "model.diffusion.block_size=8", "train.augmentation.probability=0.5")
    assert len(steps_of(run)) == 6


def test_another_augmentation_changes_how_training_goes_on(place: Workplace, trained: Trained) -> None:
    run = trained(MASK)
    with pytest.raises(ResumeMismatch, match=r"train\.augmentation") as caught:
        place.train(run, MASK, ALL, MORE)
    assert caught.value.hint == "--allow-changes continues with the new values"
    assert place.train(run, MASK, ALL, MORE, allow_changes=True).ends[0].step == 8


def test_a_mask_vector_that_the_run_lacks_makes_another_run(place: Workplace, trained: Trained) -> None:
    run = trained()
    with pytest.raises(ResumeMismatch, match=r"model\.mask_vector") as caught:
        place.train(run, MASK, MORE, allow_changes=True)
    assert "start another run" in caught.value.hint


def test_a_loss_that_begins_late_is_seen_in_the_metrics(trained: Trained) -> None:
    factors = [step["loss_factors"] for step in steps_of(trained(*SUMMARY))]
    assert factors == [{"segment_summary.reconstruction": share} for share in (0.0, 0.0, 0.0, 1.0, 1.0, 1.0)]


def test_a_loss_may_begin_at_another_time_when_changes_are_allowed(place: Workplace, trained: Trained) -> None:
    run, later = trained(*SUMMARY), (SUMMARY[0].replace("0.5", "0.7"), SUMMARY[1])
    with pytest.raises(ResumeMismatch, match=r"loss_start: the run has 0\.5, the request 0\.7"):
        place.train(run, *later, MORE)
    assert place.train(run, *later, MORE, allow_changes=True).ends[0].step == 8


@pytest.mark.parametrize("asked", [{"mask_vector": True}, {}], ids=["with", "without"])
def test_a_trained_model_gets_a_mask_vector_when_it_is_asked_for(
    place: Workplace, tmp_path: Path, asked: dict[str, bool]
) -> None:
    peer = save_stock(tmp_path / "stock")
    file = place.folder / "small.json"
    values = json.loads(file.read_text())
    del values["tokenizer"]
    model = {"init_from": str(tmp_path / "stock"), "seq_length": 32, **asked}
    augmented = {**values["train"], "augmentation": {"probability": 0.5}}
    file.write_text(json.dumps(values | {"model": model, "train": augmented}))
    if not asked:
        with pytest.raises((UserMistake, PresetError), match="mask"):
            place.train(tmp_path / "run")
        return
    place.train(tmp_path / "run")
    loaded = dreamlm.load(tmp_path / "run", device="cpu")
    assert loaded.model.mask_vector is not None
    moved = (loaded.model.norm.weight - peer.model.norm.weight).abs().max()
    assert moved < 0.1, "the weights did not start from those of the origin"
    assert torch.isfinite(loaded.model.mask_vector).all()
