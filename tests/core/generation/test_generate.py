import itertools

import numpy as np
import pytest
import torch
from sharp_models import sharp_model

from dreamlm.core.errors import DataError, DreamLMError, RangeError, UserMistake
from dreamlm.core.generation.generate import generate
from dreamlm.core.generation.row import Generation
from dreamlm.core.generation.sampler import Sampler
from dreamlm.core.generation.window import ContextWindow
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.tokenizer import BytePair, Tokenizer

PROMPTS = ["The sea", "", "and the old captain said: the sea is", "x"]


@torch.no_grad()
def log_probabilities(model: DreamLM, ids: list[int]) -> torch.Tensor:
    """(T, V): one pass without cache, padding or neighbours."""
    tokens = torch.tensor([ids])
    signal = model(tokens, torch.zeros_like(tokens), model.start(1, records=False), boundaries=False)
    return model.logits(signal.hidden)[0].log_softmax(dim=-1)


def greedy_by_recomputing(model: DreamLM, tokenizer: Tokenizer, prompt: str, new_tokens: int) -> tuple[int, ...]:
    """The documented rule, with a whole pass over the readable tokens for every new one."""
    window = ContextWindow(model.config.seq_length)
    ids = [tokenizer.end_of_document_id, *tokenizer.encode(prompt)]
    readable, chosen = window.opening(len(ids), new_tokens), []
    for step in range(new_tokens):
        if step > 0 and step % window.stride == 0:
            readable = window.kept(readable, new_tokens - step)
        scores = log_probabilities(model, ids[len(ids) - readable :])[-1]
        scores[[tokenizer.padding_id, tokenizer.end_of_document_id]] = -torch.inf
        chosen.append(int(scores.argmax()))
        ids.append(chosen[-1])
        readable += 1
    return tuple(chosen)


def greedy(new_tokens: int, **settings: object) -> Sampler.Config:
    return Sampler.Config.model_validate(
        {"greedy": True, "max_new_tokens": new_tokens, "min_new_tokens": new_tokens, **settings}
    )


def test_reading_token_by_token_gives_the_probabilities_of_one_pass(model: DreamLM, tokenizer: Tokenizer) -> None:
    written = generate(model, tokenizer, PROMPTS, Sampler.Config(max_new_tokens=20, min_new_tokens=20, seed=1))
    for generation in written:
        prompt_ids = [tokenizer.end_of_document_id, *tokenizer.encode(generation.prompt)]
        scores = log_probabilities(model, [*prompt_ids, *generation.token_ids])[len(prompt_ids) - 1 : -1]
        expected = scores[range(20), list(generation.token_ids)].mean()
        assert generation.mean_log_probability == pytest.approx(float(expected), abs=1e-5)


def test_greedy_takes_the_most_probable_token_of_a_whole_pass(model: DreamLM, tokenizer: Tokenizer) -> None:
    written = generate(model, tokenizer, PROMPTS, greedy(12))
    expected = [greedy_by_recomputing(model, tokenizer, prompt, 12) for prompt in PROMPTS]
    assert [generation.token_ids for generation in written] == expected


@pytest.mark.parametrize("positions", ["rope", "learned"])
def test_a_text_longer_than_the_window_follows_the_sliding_rule(tokenizer: Tokenizer, positions: str) -> None:
    model = sharp_model(tokenizer.vocab_size, seq_length=16, positions=positions)
    prompts = [*PROMPTS, "a prompt that is longer than the sixteen tokens of the window " * 2]
    written = generate(model, tokenizer, prompts, greedy(50))
    expected = [greedy_by_recomputing(model, tokenizer, prompt, 50) for prompt in prompts]
    assert [generation.token_ids for generation in written] == expected
    dropped = [generation.dropped_prompt_tokens for generation in written]
    # 15 tokens are readable at first, so that the 2 of the first stride fit.
    assert dropped == [0, 0, 0, 0, len(tokenizer.encode(prompts[-1])) - 15]


@pytest.mark.parametrize("seq_length", [64, 16])
def test_a_text_does_not_depend_on_its_batch(tokenizer: Tokenizer, seq_length: int) -> None:
    model = sharp_model(tokenizer.vocab_size, seq_length)
    config = Sampler.Config(temperature=1.2, top_p=0.97, max_new_tokens=40, seed=3, no_repeat_ngram=4)
    together = generate(model, tokenizer, PROMPTS, config)
    alone = [generate(model, tokenizer, [prompt], config, first_prompt=i)[0] for i, prompt in enumerate(PROMPTS)]
    in_pairs = generate(model, tokenizer, PROMPTS, config.model_copy(update={"rows": 2}))
    texts = [[generation.text for generation in batch] for batch in (together, alone, in_pairs)]
    assert texts[0] == texts[1] == texts[2]
    for one, other in zip(together, alone, strict=True):
        assert one.mean_log_probability == pytest.approx(other.mean_log_probability, abs=1e-5)


def test_the_same_seed_writes_the_same_and_each_prompt_has_its_own_chance(model: DreamLM, tokenizer: Tokenizer) -> None:
    config = Sampler.Config(temperature=1.5, top_p=1.0, max_new_tokens=30, seed=11)
    first = generate(model, tokenizer, ["The sea"] * 4, config)
    assert generate(model, tokenizer, ["The sea"] * 4, config) == first
    assert len({generation.token_ids for generation in first}) == 4
    other_seed = generate(model, tokenizer, ["The sea"] * 4, config.model_copy(update={"seed": 12}))
    assert {generation.token_ids for generation in other_seed}.isdisjoint(generation.token_ids for generation in first)


def test_first_tokens_follow_the_models_probabilities(tokenizer: Tokenizer) -> None:
    model = sharp_model(tokenizer.vocab_size, seq_length=8)
    texts = 3000
    config = Sampler.Config(temperature=1.0, top_p=1.0, top_k=5, max_new_tokens=1, rows=1000)
    scores = log_probabilities(model, [tokenizer.end_of_document_id, *tokenizer.encode("The")])[-1]
    scores[tokenizer.padding_id] = -torch.inf
    best = scores.topk(5)
    expected = texts * best.values.softmax(dim=0).numpy()
    written = generate(model, tokenizer, ["The"] * texts, config)
    first = [
        generation.token_ids[0] if generation.token_ids else tokenizer.end_of_document_id for generation in written
    ]
    counts = np.array([first.count(int(token)) for token in best.indices])
    assert counts.sum() == texts
    # The 99.9 % quantile of chi-square with 4 degrees of freedom.
    assert ((counts - expected) ** 2 / expected).sum() < 18.47


def pieces_of(model: DreamLM, tokenizer: Tokenizer, config: Sampler.Config) -> tuple[list[list[str]], list[Generation]]:
    pieces: list[list[str]] = [[] for _ in PROMPTS]
    written = generate(model, tokenizer, PROMPTS, config, lambda prompt, text: pieces[prompt].append(text))
    return pieces, written


def test_streamed_pieces_join_to_the_text(model: DreamLM, tokenizer: Tokenizer) -> None:
    pieces, written = pieces_of(model, tokenizer, Sampler.Config(temperature=1.5, max_new_tokens=60, seed=4))
    for streamed, generation in zip(pieces, written, strict=True):
        assert "".join(streamed) == generation.text == tokenizer.decode(generation.token_ids)
        assert all(streamed)


def test_a_stop_string_across_tokens_cuts_the_text_before_it_and_is_never_streamed(
    model: DreamLM, tokenizer: Tokenizer
) -> None:
    config = Sampler.Config(temperature=1.5, max_new_tokens=60, min_new_tokens=60, seed=4)
    _, uncut = pieces_of(model, tokenizer, config)
    for number, whole in enumerate(uncut):
        middle = [tokenizer.decode(whole.token_ids[:count]) for count in (20, 24)]
        stop = whole.text[len(middle[0]) - 1 : len(middle[1])]
        pieces, written = pieces_of(model, tokenizer, config.model_copy(update={"stop": (stop,)}))
        assert written[number].text == "".join(pieces[number]) == whole.text[: whole.text.index(stop)]
        assert written[number].finish_reason == "stop"
        assert len(written[number].token_ids) < len(whole.token_ids)


def test_each_ending_is_named(model: DreamLM, tokenizer: Tokenizer) -> None:
    written = generate(model, tokenizer, ["The"] * 40, Sampler.Config(temperature=4.0, top_p=1.0, max_new_tokens=90))
    for generation in written:
        length_reached = len(generation.token_ids) == 90
        assert generation.finish_reason == ("length" if length_reached else "end")
        assert tokenizer.end_of_document_id not in generation.token_ids
    assert {generation.finish_reason for generation in written} == {"length", "end"}


def test_a_document_does_not_end_before_the_least_length(model: DreamLM, tokenizer: Tokenizer) -> None:
    settings = {"temperature": 4.0, "top_p": 1.0, "max_new_tokens": 90}
    short = generate(model, tokenizer, ["The"] * 40, Sampler.Config.model_validate(settings))
    long = generate(model, tokenizer, ["The"] * 40, Sampler.Config.model_validate({**settings, "min_new_tokens": 30}))
    assert min(len(generation.token_ids) for generation in short) < 30
    assert min(len(generation.token_ids) for generation in long) >= 30


@pytest.mark.parametrize(("scope", "from_prompt_too"), [("all", True), ("output", False)])
def test_no_ngram_comes_twice_in_its_scope(
    model: DreamLM, tokenizer: Tokenizer, scope: str, from_prompt_too: bool
) -> None:
    prompt = "the sea the sea the sea"
    (written,) = generate(model, tokenizer, [prompt], greedy(60, no_repeat_ngram=2, ngram_scope=scope))
    prompt_ids = tokenizer.encode(prompt)
    pairs = list(itertools.pairwise(written.token_ids))
    assert len(set(pairs)) == len(pairs)
    if from_prompt_too:
        assert set(pairs).isdisjoint(itertools.pairwise(prompt_ids))
    (free,) = generate(model, tokenizer, [prompt], greedy(60))
    assert len(set(itertools.pairwise(free.token_ids))) < 59


def test_blocking_yields_when_it_leaves_no_token_and_the_document_may_not_end(
    model: DreamLM, tokenizer: Tokenizer
) -> None:
    choices = tokenizer.vocab_size - 2
    (written,) = generate(model, tokenizer, [""], greedy(choices + 10, no_repeat_ngram=1))
    assert len(set(written.token_ids[:choices])) == choices
    assert len(written.token_ids) == choices + 10


def test_blocking_never_forbids_the_end_of_the_document(model: DreamLM, tokenizer: Tokenizer) -> None:
    config = Sampler.Config(greedy=True, no_repeat_ngram=1, max_new_tokens=2 * tokenizer.vocab_size)
    (written,) = generate(model, tokenizer, [""], config)
    assert written.finish_reason == "end"


def test_padding_and_ids_without_a_token_are_never_written(tokenizer: Tokenizer) -> None:
    model = sharp_model(tokenizer.vocab_size + 200)
    written = generate(model, tokenizer, PROMPTS, Sampler.Config(temperature=100.0, top_p=1.0, max_new_tokens=100))
    ids = {token for generation in written for token in generation.token_ids}
    assert max(ids) < tokenizer.vocab_size
    assert tokenizer.padding_id not in ids


def test_no_prompts_give_no_texts(model: DreamLM, tokenizer: Tokenizer) -> None:
    assert generate(model, tokenizer, [], Sampler.Config()) == []


def test_a_model_in_training_goes_on_in_training_even_after_an_error(model: DreamLM, tokenizer: Tokenizer) -> None:
    model.train()
    model.norm.eval()
    generate(model, tokenizer, ["a"], greedy(2))
    assert model.training
    assert not model.norm.training

    def stop(prompt: int, text: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(model, tokenizer, ["a"], greedy(50), stop)
    assert model.training
    assert not torch.is_inference_mode_enabled()


def test_logits_that_are_not_finite_are_reported_with_their_place(tokenizer: Tokenizer) -> None:
    model = sharp_model(tokenizer.vocab_size)
    torch.nn.init.constant_(model.norm.weight, torch.nan)
    for config in (greedy(3), Sampler.Config()):
        with pytest.raises(DreamLMError, match="not finite") as caught:
            generate(model, tokenizer, ["a"], config, first_prompt=7)
        assert caught.value.where == "prompt 7, new token 0"


def test_a_tokenizer_of_another_model_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(UserMistake, match="300 tokens, the model knows 280"):
        generate(sharp_model(280), tokenizer, ["a"], Sampler.Config())


def test_an_impossible_window_is_refused_with_its_range(tokenizer: Tokenizer) -> None:
    learned = sharp_model(tokenizer.vocab_size, 16, "learned")
    for window in (1, 17):
        with pytest.raises(RangeError, match=f"window of {window} tokens is impossible") as caught:
            generate(learned, tokenizer, ["a"], Sampler.Config(), window=window)
        assert caught.value.valid == ("2 to 16, the positions the model has",)


def test_a_prompt_that_is_no_unicode_is_refused(model: DreamLM, tokenizer: Tokenizer) -> None:
    with pytest.raises(DataError, match="lone surrogate"):
        generate(model, tokenizer, ["fine", "\ud800"], Sampler.Config())


def test_streamed_bytes_that_are_no_utf8_join_to_what_decoding_at_once_gives(model: DreamLM) -> None:
    bytes_only = BytePair(vocab_size=258).build([""])
    small = sharp_model(bytes_only.vocab_size)
    pieces: list[str] = []
    config = Sampler.Config(temperature=3.0, top_p=1.0, max_new_tokens=200, min_new_tokens=200)
    (written,) = generate(small, bytes_only, [""], config, lambda prompt, text: pieces.append(text))
    assert "".join(pieces) == written.text == bytes_only.decode(written.token_ids)
