"""A trained model is loaded for longer windows, and what is saved from it knows them."""

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

    other = Store(place.folder / "other")
    saver = SnapshotSaver(other, longer.preset, longer.model, longer.tokenizer, corpus_folder(place.preset()))
    saver.save(longer.state, Tensors(longer.model.state_dict(), {}))
    back = dreamlm.load(place.folder / "other")
    assert back.model.config == longer.model.config
    assert torch.equal(logits(back, 128), logits(longer, 128))


def test_chosen_layers_alone_are_rescaled(trained: Trained) -> None:
    run = trained("model.num_layers=2")
    whole, part, none = (dreamlm.load(run, extend_max_seq_len=64, rescale_layers=layers) for layers in (None, (1,), ()))
    assert part.preset.model.positions.model_dump()["scaling"]["layers"] == (1,)
    assert not torch.equal(logits(whole, 64), logits(part, 64))
    assert not torch.equal(logits(none, 64), logits(part, 64))
    assert not torch.equal(logits(none, 64), logits(whole, 64))


def test_layers_without_a_length_and_a_shorter_window_are_mistakes(trained: Trained) -> None:
    run = trained()
    with pytest.raises(UserMistake, match="re-scaled for an extension only"):
        dreamlm.load(run, rescale_layers="all")
    with pytest.raises(RangeError, match="windows of 32 tokens cannot be extended to 16"):
        dreamlm.load(run, extend_max_seq_len=16)
