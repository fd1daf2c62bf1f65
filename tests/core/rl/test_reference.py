"""The reference says how likely every token of a text is, whatever the text is computed with."""

import random
from functools import cache

import pytest
import torch

from dreamlm.core.errors import RangeError
from dreamlm.core.modules.segment_summary import SegmentSummary
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.rl.reference import Reference
from dreamlm.core.tokenizer import BytePair, Tokenizer

LENGTH = 16
PLAIN = {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "seq_length": LENGTH}
SHAPES = {
    "plain": PLAIN,
    "segments": PLAIN | {"segment_length": 4, "modules": (SegmentSummary.Config(num_vectors=2),)},
    "experts": PLAIN | {"feed_forward": {"type": "moe", "num_experts": 4}},
    "learned": PLAIN | {"positions": "learned"},
}


@cache
def tokenizer() -> Tokenizer:
    return BytePair(vocab_size=258).build(["words"])


@cache
def model(shape: str) -> DreamLM:
    """Random weights, far from uniform."""
    torch.manual_seed(3)
    made = DreamLM.Config.model_validate(SHAPES[shape]).build(tokenizer().vocab_size)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    return made.eval()


def texts(*lengths: int) -> list[list[int]]:
    draw = random.Random(7)
    return [[tokenizer().end_of_document_id, *(draw.randrange(2, 258) for _ in range(length))] for length in lengths]


@torch.no_grad()
def naive(one: DreamLM, sequence: list[int]) -> list[float]:
    """Token by token, alone, each time from the beginning."""
    found = []
    for place in range(1, len(sequence)):
        before = torch.tensor([sequence[:place]])
        signal = one(before, torch.zeros_like(before), one.start(1), boundaries=False)
        found.append(one.logits(signal.hidden)[0, -1].double().log_softmax(dim=0)[sequence[place]].item())
    return found


@pytest.mark.parametrize("shape", SHAPES)
def test_every_token_has_the_log_probability_it_has_alone(shape: str) -> None:
    sequences = texts(5, LENGTH, 1, 9, 4, 0, 12)
    found = Reference(model(shape), tokenizer(), rows=3).log_probabilities(sequences)
    for sequence, log_T in zip(sequences, found, strict=True):
        assert (log_T.dtype, log_T.device.type) == (torch.float32, "cpu")
        assert log_T.tolist() == pytest.approx(naive(model(shape), sequence), abs=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_neither_batches_nor_order_change_a_figure(shape: str) -> None:
    sequences = texts(*range(LENGTH + 1), 3, 7)
    alone = Reference(model(shape), tokenizer(), rows=1).log_probabilities(sequences)
    for rows in (2, 5, 64):
        reference = Reference(model(shape), tokenizer(), rows)
        backwards = reference.log_probabilities(sequences[::-1])[::-1]
        for together in (reference.log_probabilities(sequences), backwards):
            for one, other in zip(alone, together, strict=True):
                torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


def test_nothing_is_left_of_a_model_that_was_asked_while_it_learns() -> None:
    learning = DreamLM.Config(**PLAIN, dropout=0.5).build(tokenizer().vocab_size).train()
    learning.layers[0].eval()
    modes = [part.training for part in learning.modules()]
    reference = Reference(learning, tokenizer())
    first, second = reference.log_probabilities(texts(9)), reference.log_probabilities(texts(9))
    assert torch.equal(first[0], second[0])
    assert [part.training for part in learning.modules()] == modes
    assert all(parameter.grad is None and parameter.requires_grad for parameter in learning.parameters())


def test_the_figures_can_take_part_in_a_loss() -> None:
    (log_T,) = Reference(model("plain"), tokenizer()).log_probabilities(texts(4))
    weight = torch.ones(4, requires_grad=True)
    (weight * log_T).sum().backward()
    assert torch.equal(weight.grad, log_T)


def test_rows_of_like_length_are_read_together_the_longest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    one, widths = model("plain"), []
    whole = DreamLM.forward
    monkeypatch.setattr(
        DreamLM, "forward", lambda *given, **named: widths.append(given[1].shape) or whole(*given, **named)
    )
    Reference(one, tokenizer(), rows=2).log_probabilities(texts(3, 15, 4, 16, 9))
    assert widths == [(2, 16), (2, 9), (1, 3)]


def test_no_sequences_and_sequences_without_targets_cost_nothing() -> None:
    reference = Reference(model("plain"), tokenizer())
    assert reference.log_probabilities([]) == []
    assert [len(log_T) for log_T in reference.log_probabilities(texts(0, 0))] == [0, 0]


def test_a_text_of_the_whole_window_fits_and_one_token_more_is_refused() -> None:
    reference = Reference(model("plain"), tokenizer())
    fits, longer = texts(LENGTH, LENGTH + 1)
    assert len(reference.log_probabilities([fits])[0]) == LENGTH
    with pytest.raises(RangeError, match="17 tokens do not fit into the model's window") as caught:
        reference.log_probabilities([fits, longer])
    assert (caught.value.where, caught.value.valid) == (
        "sequence 1",
        ("at most 16 behind the end-of-document token",),
    )


def test_opened_keeps_the_newest_tokens_that_have_room() -> None:
    reference, end = Reference(model("plain"), tokenizer()), tokenizer().end_of_document_id
    assert reference.opened([]) == (end,)
    assert reference.opened([5, 6]) == (end, 5, 6)
    assert reference.opened(range(100, 100 + LENGTH + 2)) == (end, *range(102, 102 + LENGTH))


@pytest.mark.parametrize("sequence", [[], [5, 6]])
def test_a_sequence_must_open_a_document(sequence: list[int]) -> None:
    with pytest.raises(RangeError, match="does not open with the end-of-document token"):
        Reference(model("plain"), tokenizer()).log_probabilities([sequence])


def test_no_rows_are_refused() -> None:
    with pytest.raises(RangeError, match="0 sequences"):
        Reference(model("plain"), tokenizer(), rows=0)


def test_the_logits_of_a_batch_are_never_held_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dreamlm.core.heads.lm.CHUNK_LOGITS", 3 * tokenizer().vocab_size)
    one, held = model("plain"), []
    whole = type(one.head).logits
    monkeypatch.setattr(type(one.head), "logits", lambda head, hidden: held.append(len(hidden)) or whole(head, hidden))
    Reference(one, tokenizer()).log_probabilities(texts(9, 8, 7))
    assert max(held) == 3
