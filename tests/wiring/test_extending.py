"""A trained model is loaded for longer windows, and what is saved from it knows them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from workplace import Workplace

import dreamlm
from dreamlm.checkpoints.store import Store
from dreamlm.core.errors import RangeError, UserMistake
from dreamlm.core.generation.generate import generate
from dreamlm.core.training.backend.backend import Tensors
from dreamlm.wiring.evaluation import EvaluationRequest, evaluate
from dreamlm.wiring.loading import Loaded
from dreamlm.wiring.places import corpus_folder
from dreamlm.wiring.saver import SnapshotSaver

Trained = Callable[..., Path]


def logits(loaded: Loaded, length: int) -> torch.Tensor:
    ids = torch.randint(0, loaded.model.vocab_size, (2, length), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        signal = loaded.model(ids, torch.zeros_like(ids), loaded.model.start(2), boundaries=False)
        return loaded.model.logits(signal.hidden)


def saved(place: Workplace, loaded: Loaded) -> Path:
    """The run folder with one snapshot of the model."""
    folder = place.folder / "other"
    saver = SnapshotSaver(Store(folder), loaded.preset, loaded.model, loaded.tokenizer, corpus_folder(place.preset()))
    saver.save(loaded.state, Tensors(loaded.model.state_dict(), {}))
    return folder


@pytest.mark.parametrize("kind", ["alibi", "learned", "none", "rope"])
def test_windows_and_contexts_grow_and_a_snapshot_of_the_longer_model_brings_it_back(
    place: Workplace, trained: Trained, kind: str
) -> None:
    run = trained(f"model.positions={kind}")
    longer = dreamlm.load(run, extend_max_seq_len=128)
    assert longer.preset.model.seq_length == longer.model.config.seq_length == 128
    assert longer.preset.model.positions == longer.model.config.positions
    measured = [
        evaluate(EvaluationRequest(run, extend_max_seq_len=length), lambda doing, done, total: None).perplexity
        for length in (None, 128)
    ]
    assert [len(report.position_cross_entropy) for report in measured] == [32, 128]
    assert measured[0].tokens == measured[1].tokens
    (text,) = generate(longer.model, longer.tokenizer, ["the cat saw " * 25], longer.preset.generate)
    assert text.dropped_prompt_tokens == 0

    back = dreamlm.load(saved(place, longer))
    assert back.model.config == longer.model.config
    assert torch.equal(logits(back, 128), logits(longer, 128))


def test_chosen_layers_alone_are_rescaled(trained: Trained) -> None:
    run = trained("model.num_layers=2")
    whole, part, none = (dreamlm.load(run, extend_max_seq_len=64, rescale_layers=layers) for layers in (None, (1,), ()))
    assert part.preset.model.positions.model_dump()["scaling"]["layers"] == (1,)
    assert not torch.equal(logits(whole, 64), logits(part, 64))
    assert not torch.equal(logits(none, 64), logits(part, 64))
    assert not torch.equal(logits(none, 64), logits(whole, 64))


def test_layers_left_out_keep_the_scaling_of_training_in_snapshots_too(place: Workplace, trained: Trained) -> None:
    run = trained("model.num_layers=2", 'model.positions={"scaling": {"type": "linear", "factor": 2}}')
    longer = dreamlm.load(run, extend_max_seq_len=64, rescale_layers=(1,))
    folder = saved(place, longer)
    values = json.loads(next(folder.rglob("config.json")).read_text())["positions"]
    scaled, kept = values["scaling"], *values["scaling_elsewhere"]
    assert (scaled["factor"], scaled["layers"], kept["factor"], kept["layers"]) == (4.0, [1], 2.0, "all")
    assert torch.equal(logits(dreamlm.load(folder), 64), logits(longer, 64))
    none = dreamlm.load(run, extend_max_seq_len=64, rescale_layers=())
    assert torch.equal(logits(none, 32), logits(dreamlm.load(run), 32))


def test_layers_without_a_length_and_a_shorter_window_are_mistakes(trained: Trained) -> None:
    run = trained()
    with pytest.raises(UserMistake, match="re-scaled for an extension only"):
        dreamlm.load(run, rescale_layers="all")
    with pytest.raises(RangeError, match="windows of 32 tokens cannot be extended to 16"):
        dreamlm.load(run, extend_max_seq_len=16)
