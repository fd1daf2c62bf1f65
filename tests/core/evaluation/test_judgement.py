"""Every token of a text is judged once, by the reference's own tokens, behind as much context as there is."""

import pytest
import torch
from texts_by_hand import text

from dreamlm.core.evaluation.judgement import log_likelihoods, pieces
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.rl.reference import Reference
from dreamlm.core.tokenizer import BytePair, Tokenizer

LENGTH = 12


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return BytePair(vocab_size=270).build(["the sea and the ship " * 5])


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> DreamLM:
    torch.manual_seed(1)
    made = DreamLM.Config(hidden_size=16, num_layers=2, num_heads=2, seq_length=LENGTH).build(tokenizer.vocab_size)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    return made.eval()


TEXTS = [text("the sea", " and the"), text("", "ship"), text("the", ""), text("the ship and the sea " * 4, " the end")]
LONG = text("the", " sea and the ship, a man, a dog and 14 cats")


@torch.no_grad()
def naive(model: DreamLM, ids: list[int], first: int) -> float:
    tokens = torch.tensor([ids])
    hidden = model(tokens[:, :-1], torch.zeros_like(tokens[:, :-1]), model.start(1), boundaries=False).hidden
    log = model.logits(hidden)[0].double().log_softmax(dim=-1)
    return sum(log[place - 1, ids[place]].item() for place in range(first, len(ids)))


@pytest.mark.parametrize("rows", [1, 3, 16])
def test_a_text_has_the_sum_of_its_tokens_alone_whatever_it_is_batched_with(
    model: DreamLM, tokenizer: Tokenizer, rows: int
) -> None:
    found = log_likelihoods(Reference(model, tokenizer, rows), TEXTS[:3])
    for (total, tokens), one in zip(found, TEXTS, strict=False):
        prompt, ids = tokenizer.encode_batch([one.prompt, one.text])
        expected = naive(model, [tokenizer.end_of_document_id, *prompt, *ids], 1 + len(prompt))
        assert (total, tokens) == (pytest.approx(expected, abs=1e-4), len(ids))


def test_progress_counts_texts_and_their_number_does_not_change_them(
    model: DreamLM, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference, seen = Reference(model, tokenizer, 1), list[tuple[int, int]]()
    whole = log_likelihoods(reference, [*TEXTS, LONG])
    monkeypatch.setattr("dreamlm.core.evaluation.judgement.BATCHES_AT_ONCE", 2)
    again = log_likelihoods(reference, [*TEXTS, LONG], lambda done, total: seen.append((done, total)))
    assert again == [(pytest.approx(total, abs=1e-4), tokens) for total, tokens in whole]
    assert seen == [(2, 5), (4, 5), (5, 5)]


@pytest.mark.parametrize("prompt", [0, 3, 11, 12, 40])
@pytest.mark.parametrize("length", [0, 1, 6, 12, 13, 50])
def test_every_token_of_a_long_text_counts_once_behind_at_least_half_a_window(
    model: DreamLM, tokenizer: Tokenizer, prompt: int, length: int
) -> None:
    ids = list(range(100, 100 + prompt + length))
    cut = pieces(ids[:prompt], ids[prompt:], Reference(model, tokenizer))
    assert [token for piece, scored in cut for token in piece[-scored:]] == ids[prompt:]
    for piece, scored in cut:
        assert piece[0] == tokenizer.end_of_document_id
        assert len(piece) - 1 <= LENGTH
        first = piece[-scored]
        assert len(piece) - 1 - scored >= min(LENGTH // 2, ids.index(first))
