"""The pass that training differentiates agrees with the one that drew, and with a softmax written out."""

import numpy as np
import pytest
import torch
from small_policy import KINDS, PROMPTS, small_model, small_tokenizer
from torch import Tensor

from dreamlm.core.heads import choice
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.rl.policy import AnswerBatch, Policy
from dreamlm.core.rl.rollout import Rollout, RolloutConfig, Vocabulary, roll_out

TOKENIZER = small_tokenizer()
CONFIGS = {
    "everything": RolloutConfig(max_new_tokens=14),
    "warm": RolloutConfig(max_new_tokens=14, temperature=1.7),
    "nucleus": RolloutConfig(max_new_tokens=14, top_p=0.8, temperature=0.9),
    "least length": RolloutConfig(max_new_tokens=14, min_new_tokens=5),
    "top k, least length": RolloutConfig(max_new_tokens=14, top_k=20, min_new_tokens=5),
}


def drawn(model: DreamLM, config: RolloutConfig) -> tuple[list[Rollout], Policy]:
    rollouts = roll_out(model, TOKENIZER, PROMPTS, config, [1, 2, 3, 4, 5])
    return rollouts, Policy(model, config.temperature, Vocabulary.of(model, TOKENIZER))


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("kind", KINDS)
def test_both_passes_give_a_token_one_probability(kind: str, config: str) -> None:
    model = small_model(kind)
    rollouts, policy = drawn(model, CONFIGS[config])
    with torch.no_grad():
        opinion, _ = policy.eval()(AnswerBatch.of(rollouts))
    cached = np.concatenate([one.log_probabilities_N for one in rollouts])
    np.testing.assert_allclose(opinion.log_probability_N.numpy(), cached, atol=2e-5)


def written_out(model: DreamLM, one: Rollout, config: RolloutConfig) -> tuple[Tensor, Tensor]:
    ids = torch.tensor([[*one.answer.prompt_ids, *one.answer.ids]])
    hidden = model(ids, torch.zeros_like(ids), model.start(1), boundaries=False).hidden[0]
    log_probabilities, entropies = [], []
    for number, token in enumerate(one.answer.ids):
        logits_V = (hidden[len(one.answer.prompt_ids) - 1 + number] @ model.head.weight.T).double() / config.temperature
        if one.support_NW is None:
            vocabulary = Vocabulary.of(model, TOKENIZER)
            ruled_out = {*vocabulary.never, *([vocabulary.end] if number < one.endless else [])}
            allowed = [v for v in range(model.vocab_size) if v not in ruled_out]
        else:
            allowed = np.flatnonzero(np.unpackbits(one.support_NW[number])[: model.vocab_size]).tolist()
        probability = {v: float(p) for v, p in zip(allowed, logits_V[allowed].softmax(0), strict=True)}
        log_probabilities.append(np.log(probability[token]))
        entropies.append(-sum(p * np.log(p) for p in probability.values()))
    return torch.tensor(log_probabilities), torch.tensor(entropies)


@pytest.mark.parametrize("config", CONFIGS)
def test_probability_and_entropy_are_those_of_a_softmax_over_the_support(config: str) -> None:
    model = small_model().eval()
    rollouts, policy = drawn(model, CONFIGS[config])
    with torch.no_grad():
        opinion, _ = policy.eval()(AnswerBatch.of(rollouts))
        expected = [written_out(model, one, CONFIGS[config]) for one in rollouts]
    torch.testing.assert_close(
        opinion.log_probability_N.double(), torch.cat([one for one, _ in expected]), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(opinion.entropy_N.double(), torch.cat([one for _, one in expected]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("config", ["everything", "nucleus"])
def test_chunks_change_neither_values_nor_gradients(config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for chunk in (1 << 22, 284 * 3):
        monkeypatch.setattr(choice, "CHUNK_LOGITS", chunk)
        model = small_model().eval()
        rollouts, policy = drawn(model, CONFIGS[config])
        opinion, _ = policy.eval()(AnswerBatch.of(rollouts))
        (opinion.log_probability_N.sin().sum() + opinion.entropy_N.square().sum()).backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        assert gradient.isfinite().all()
        found.append((opinion.log_probability_N.detach(), gradient))
    torch.testing.assert_close(found[0][0], found[1][0])
    largest = found[0][1].abs().max().item()  # sums of terms of this size, in another order
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-4, atol=4e-6 * largest)


def test_an_answer_is_read_alike_in_any_company() -> None:
    model = small_model("with a module").eval()
    rollouts, policy = drawn(model, CONFIGS["nucleus"])
    with torch.no_grad():
        together, _ = policy.eval()(AnswerBatch.of(rollouts))
        alone = [policy.eval()(AnswerBatch.of([one]))[0].log_probability_N for one in rollouts]
        padded, _ = policy(AnswerBatch.of(rollouts).padded(60))
    torch.testing.assert_close(together.log_probability_N, torch.cat(alone), atol=1e-5, rtol=0)
    torch.testing.assert_close(together.log_probability_N, padded.log_probability_N, atol=1e-5, rtol=0)
