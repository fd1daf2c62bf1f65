"""Answers are drawn from the stated distribution, each by its own seed, and remember what they could have been."""

import numpy as np
import pytest
import torch
from small_policy import KINDS, PROMPTS, small_model, small_tokenizer

from dreamlm.core.errors import UserMistake
from dreamlm.core.generation.sampler import Sampler
from dreamlm.core.rl.rollout import Rollout, RolloutConfig, Vocabulary, prompt_ids, roll_out

SEEDS = [5, 6, 7, 8, 9]
TOKENIZER = small_tokenizer()


def bits(support_W: np.ndarray, size: int) -> set[int]:
    return set(np.flatnonzero(np.unpackbits(support_W)[:size]).tolist())


def ids_of(rollouts: list[Rollout]) -> list[tuple[int, ...]]:
    return [one.answer.ids for one in rollouts]


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_depends_on_its_seed_and_not_on_its_neighbours(kind: str) -> None:
    model, config = small_model(kind), RolloutConfig(max_new_tokens=12, rows=5)
    together = roll_out(model, TOKENIZER, PROMPTS, config, SEEDS)
    alone = [roll_out(model, TOKENIZER, [one], config, [seed])[0] for one, seed in zip(PROMPTS, SEEDS, strict=True)]
    in_pairs = roll_out(model, TOKENIZER, PROMPTS, config.model_copy(update={"rows": 2}), SEEDS)
    assert ids_of(together) == ids_of(alone) == ids_of(in_pairs)
    assert ids_of(together) != ids_of(roll_out(model, TOKENIZER, PROMPTS, config, [one + 1 for one in SEEDS]))
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(one.log_probabilities_N, other.log_probabilities_N, atol=1e-5)


def test_answers_end_at_the_end_of_the_document_or_the_limit() -> None:
    found = roll_out(small_model(), TOKENIZER, PROMPTS * 12, RolloutConfig(max_new_tokens=30), range(60))
    end = TOKENIZER.end_of_document_id
    assert {one.answer.ended for one in found} == {True, False}
    for one in found:
        assert one.answer.ended == (one.answer.ids[-1] == end)
        assert end not in one.answer.ids[:-1]
        assert one.answer.ended or len(one.answer.ids) == 30
        assert one.answer.text == TOKENIZER.decode([token for token in one.answer.ids if token != end])
        assert len(one.log_probabilities_N) == len(one.answer.ids)
        assert one.support_NW is None
        assert one.endless == 0


def test_padding_and_entries_without_a_token_are_never_written() -> None:
    model = small_model()
    with torch.no_grad():
        model.embedding.weight[TOKENIZER.padding_id] = model.norm.weight * 50
        model.embedding.weight[TOKENIZER.vocab_size :] = model.norm.weight * 50
    never = Vocabulary.of(model, TOKENIZER).never
    assert TOKENIZER.padding_id in never
    assert len(never) > 1
    found = roll_out(model, TOKENIZER, PROMPTS, RolloutConfig(max_new_tokens=8), SEEDS)
    assert not {token for one in found for token in one.answer.ids} & set(never)


def test_the_end_does_not_come_before_the_least_length() -> None:
    model = small_model()
    end = TOKENIZER.end_of_document_id
    with torch.no_grad():
        model.embedding.weight[end] += model.norm.weight  # the end is the likeliest token nearly everywhere
    for one in roll_out(model, TOKENIZER, PROMPTS * 6, RolloutConfig(max_new_tokens=9, min_new_tokens=6), range(30)):
        assert len(one.answer.ids) >= 6
        assert one.endless == 5
        assert one.support_NW is None
    cut = RolloutConfig(max_new_tokens=9, min_new_tokens=6, top_p=0.99)
    later = []
    for one in roll_out(model, TOKENIZER, PROMPTS * 6, cut, range(30)):
        assert one.support_NW is not None
        allowed = [end in bits(support_W, model.vocab_size) for support_W in one.support_NW]
        assert not any(allowed[:5])
        later += allowed[5:]
    assert any(later)


def test_the_support_is_the_nucleus_of_the_sampler() -> None:
    model, config = small_model(), RolloutConfig(max_new_tokens=6, top_p=0.7, top_k=40, temperature=1.3)
    sampler = Sampler.Config(temperature=1.3, top_k=40, top_p=0.7).build()
    for one in roll_out(model, TOKENIZER, PROMPTS, config, SEEDS):
        assert one.support_NW is not None
        ids = [*one.answer.prompt_ids, *one.answer.ids]
        with torch.inference_mode():
            tokens = torch.tensor([ids])
            signal = model.eval()(tokens, torch.zeros_like(tokens), model.start(1), boundaries=False)
            logits_TV = model.logits(signal.hidden[0])
        logits_TV = logits_TV.clone()
        logits_TV[:, list(Vocabulary.of(model, TOKENIZER).never)] = -torch.inf
        first = len(one.answer.prompt_ids) - 1
        weight_TV = sampler.probabilities(logits_TV[first : first + len(one.answer.ids)])
        for support_W, weight_V, token in zip(one.support_NW, weight_TV, one.answer.ids, strict=True):
            assert bits(support_W, model.vocab_size) == set(weight_V.nonzero()[:, 0].tolist())
            assert weight_V[token] > 0


def test_a_long_prompt_keeps_its_newest_tokens() -> None:
    ids = TOKENIZER.encode(PROMPTS[3].text)
    assert prompt_ids(PROMPTS[3], TOKENIZER, 10) == (TOKENIZER.end_of_document_id, *ids[-9:])
    assert prompt_ids(PROMPTS[1], TOKENIZER, 10) == (TOKENIZER.end_of_document_id, *TOKENIZER.encode("a"))


def test_a_window_without_room_is_the_users_mistake() -> None:
    with pytest.raises(UserMistake, match="no room for a prompt and 47 new ones") as caught:
        roll_out(small_model(), TOKENIZER, PROMPTS, RolloutConfig(max_new_tokens=47), SEEDS)
    assert caught.value.valid == ("1 to 46",)


def test_tokens_come_as_often_as_the_policy_says() -> None:
    model = small_model()
    count = 4000
    found = roll_out(model, TOKENIZER, [PROMPTS[0]] * count, RolloutConfig(max_new_tokens=1, rows=1000), range(count))
    probability = {one.answer.ids[0]: float(np.exp(one.log_probabilities_N[0])) for one in found}
    for token in sorted(probability, key=lambda one: -probability[one])[:5]:
        share = sum(one.answer.ids[0] == token for one in found) / count
        assert share == pytest.approx(probability[token], abs=4 * (probability[token] / count) ** 0.5)
