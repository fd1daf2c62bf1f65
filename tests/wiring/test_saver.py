"""What a snapshot says of the weights in it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import dreamlm
from dreamlm.checkpoints.store import Store
from dreamlm.core.training.backend.backend import Tensors
from dreamlm.wiring.saver import SnapshotSaver

Trained = Callable[..., Path]


@pytest.mark.parametrize(("weight", "finite"), [(1.0, True), (float("inf"), False), (float("nan"), False)])
def test_weights_that_are_not_finite_make_no_finite_snapshot(trained: Trained, weight: float, finite: bool) -> None:
    run = trained()
    loaded = dreamlm.load(run, device="cpu")
    store = Store(run)
    saver = SnapshotSaver(store, loaded.preset, loaded.model, loaded.tokenizer, loaded.folder)
    tensors = {name: parameter.detach().clone() for name, parameter in loaded.model.named_parameters()}
    tensors["norm.weight"][0] = weight
    saver.save(replace(loaded.state, step=loaded.state.step + 1), Tensors(tensors, {}))
    newest, last_finite = store.latest(), store.last_finite()
    assert newest is not None
    assert last_finite is not None
    assert newest.record.finite is finite
    assert last_finite.record.step == loaded.state.step + finite
    assert torch.isfinite(dreamlm.load(last_finite.path).model.norm.weight).all()


@pytest.mark.parametrize("skipped", [0, 1])
def test_weights_whose_loss_was_not_finite_make_no_finite_snapshot(trained: Trained, skipped: int) -> None:
    run = trained()
    loaded = dreamlm.load(run, device="cpu")
    store = Store(run)
    saver = SnapshotSaver(store, loaded.preset, loaded.model, loaded.tokenizer, loaded.folder)
    state = replace(loaded.state, step=loaded.state.step + 1, skipped_in_a_row=skipped)
    saver.save(state, Tensors({name: one.detach().clone() for name, one in loaded.model.named_parameters()}, {}))
    newest = store.latest()
    assert newest is not None
    assert newest.record.finite is (skipped == 0)
