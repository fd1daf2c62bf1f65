"""Writing behind a picture: it is read as one pass would read it, whatever stands beside it."""

import numpy as np
import pytest
import torch
from picture_models import ENCODERS, PLACES

from dreamlm.core.errors import UserMistake
from dreamlm.core.generation.generate import generate
from dreamlm.core.generation.places import places_of
from dreamlm.core.generation.row import Row
from dreamlm.core.generation.sampler import Sampler
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.nn.vision.view import Sight
from dreamlm.core.tokenizer import BytePair, Tokenizer

Pixels = np.ndarray


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return BytePair(vocab_size=280).build(["The sea was calm that night, and the captain said: the sea is never calm."])


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> DreamLM:
    torch.manual_seed(5)
    sizes = {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "seq_length": 48}
    config = DreamLM.Config.model_validate({**sizes, "vision": {**ENCODERS["vit"], "num_prefix_tokens": PLACES}})
    model = config.build(tokenizer.vocab_size).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(4)
    return model


def pictures(model: DreamLM, count: int) -> list[Pixels]:
    size = model.config.image_form.size
    return list(np.random.default_rng(1).integers(0, 256, (count, 3, size, size), dtype=np.uint8))


def greedy(new_tokens: int, **settings: object) -> Sampler.Config:
    return Sampler.Config.model_validate(
        {"greedy": True, "max_new_tokens": new_tokens, "min_new_tokens": new_tokens, **settings}
    )


def by_whole_passes(model: DreamLM, tokenizer: Tokenizer, prompt: str, picture: Pixels, count: int) -> list[int]:
    ids = [tokenizer.end_of_document_id, *(-1 - place for place in range(PLACES)), *tokenizer.encode(prompt)]
    chosen: list[int] = []
    for _ in range(count):
        tokens = torch.tensor([[*ids, *chosen]])
        sight = Sight(torch.from_numpy(picture)[None], torch.where(tokens < 0, 0, -1))
        with torch.no_grad():
            signal = model(tokens, torch.zeros_like(tokens), model.start(1), False, model.look(sight))
        scores = model.logits(signal.hidden)[0, -1]
        scores[[tokenizer.padding_id, tokenizer.end_of_document_id]] = -torch.inf
        chosen.append(int(scores.argmax()))
    return chosen


def test_a_text_behind_a_picture_is_that_of_whole_passes_in_a_batch_of_any_lengths(
    model: DreamLM, tokenizer: Tokenizer
) -> None:
    prompts, seen = ["", "The sea", "and the captain said"], pictures(model, 3)
    written = generate(model, tokenizer, prompts, greedy(8), pictures=seen)
    for prompt, picture, text in zip(prompts, seen, written, strict=True):
        assert list(text.token_ids) == by_whole_passes(model, tokenizer, prompt, picture, 8)
        assert text.dropped_prompt_tokens == 0


def test_another_picture_makes_another_text(model: DreamLM, tokenizer: Tokenizer) -> None:
    written = generate(model, tokenizer, [""] * 4, greedy(8), pictures=pictures(model, 4))
    assert len({text.token_ids for text in written}) > 1


def test_places_are_no_words_that_could_be_repeated(model: DreamLM, tokenizer: Tokenizer) -> None:
    for scope in ("all", "output"):
        (text,) = generate(
            model, tokenizer, [""], greedy(20, no_repeat_ngram=1, ngram_scope=scope), pictures=pictures(model, 1)
        )
        assert len(set(text.token_ids)) == 20
    free, blocked = (
        generate(model, tokenizer, [""], greedy(1, no_repeat_ngram=n), pictures=pictures(model, 1))[0] for n in (0, 1)
    )
    assert free.token_ids == blocked.token_ids


def test_the_order_of_places_blocks_nothing(model: DreamLM, tokenizer: Tokenizer) -> None:
    places = places_of(model, pictures(model, 1)[0])
    for scope in ("all", "output"):
        row = Row(0, "", [], tokenizer, greedy(4, no_repeat_ngram=1, ngram_scope=scope), places)
        assert row.blocked() == []


def test_a_text_that_outgrows_the_window_goes_on_without_the_picture(model: DreamLM, tokenizer: Tokenizer) -> None:
    texts = generate(model, tokenizer, ["", "The sea"], greedy(100), pictures=pictures(model, 2))
    assert [len(text.token_ids) for text in texts] == [100, 100]


def test_a_picture_that_would_not_be_seen_whole_is_refused(model: DreamLM, tokenizer: Tokenizer) -> None:
    with pytest.raises(UserMistake, match="do not fit into the window of 48"):
        generate(model, tokenizer, ["The sea was calm. " * 20], greedy(4), pictures=pictures(model, 1))


def test_a_picture_of_another_size_is_refused(model: DreamLM, tokenizer: Tokenizer) -> None:
    with pytest.raises(UserMistake, match=r"shape \(3, 28, 28\)"):
        generate(model, tokenizer, [""], greedy(4), pictures=[np.zeros((3, 30, 30), dtype=np.uint8)])


def test_a_model_without_eyes_says_which_key_gives_them(tokenizer: Tokenizer) -> None:
    plain = DreamLM.Config(hidden_size=16, num_layers=1, num_heads=2, seq_length=16).build(tokenizer.vocab_size)
    with pytest.raises(UserMistake, match="takes no pictures") as caught:
        generate(plain, tokenizer, [""], greedy(4), pictures=[np.zeros((3, 8, 8), dtype=np.uint8)])
    assert caught.value.where == "model.vision"
