"""The losses and their gradients against the formulas of the papers, token by token."""

from typing import Any

import numpy as np
import pytest
import torch
from small_policy import PROMPTS, small_model, small_tokenizer
from torch import Tensor

from dreamlm.core.heads.value import ValueHead
from dreamlm.core.nn.signal import Signal
from dreamlm.core.objectives.objective import Losses
from dreamlm.core.objectives.ppo import RATIO_ERROR, Algorithm, PolicyObjective
from dreamlm.core.rl.experience import Experience, ExperienceBatch
from dreamlm.core.rl.policy import AnswerBatch, Opinion, Policy
from dreamlm.core.rl.rollout import RolloutConfig, Vocabulary, roll_out

TOKENIZER = small_tokenizer()
CLIP, VALUE_CLIP, PULL = 0.2, 0.3, 0.7


class Scene:
    """Answers of a policy, experience with random numbers, and an objective over both."""

    def __init__(self, by: Algorithm = "ppo", drift: float = 0.5, **options: Any) -> None:
        """drift: how far the old log-probabilities are from the policy's.  options: of the model."""
        self.model = small_model(**options)
        self.policy = Policy(self.model, 1.0, Vocabulary.of(self.model, TOKENIZER))
        rollouts = roll_out(self.model, TOKENIZER, PROMPTS, RolloutConfig(max_new_tokens=10), range(5))
        with torch.no_grad():
            opinion, _ = self.policy.eval()(AnswerBatch.of(rollouts))
        numbers = np.random.default_rng(0)
        old_N = opinion.log_probability_N.double().numpy()
        lengths = [len(one.answer.ids) for one in rollouts]

        def column(mean_N: np.ndarray | float, spread: float) -> list[np.ndarray]:
            values_N = mean_N + spread * numbers.standard_normal(sum(lengths))
            return np.split(values_N, np.cumsum(lengths)[:-1])

        columns = zip(column(old_N, drift), *(column(0, 1) for _ in range(4)), strict=True)
        self.experience = [Experience(one, *parts) for one, parts in zip(rollouts, columns, strict=True)]
        self.value_head = ValueHead(self.model.config.hidden_size)
        torch.nn.init.normal_(self.value_head.linear.weight, std=0.1)
        self.objective = PolicyObjective(self.policy, self.value_head, CLIP, VALUE_CLIP, by)
        self.batch = ExperienceBatch.of(self.experience, PULL, 0)

    def losses(self) -> Losses:
        return self.objective(*self.batch.inputs(torch.device("cpu")))

    def opinion(self) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities that gradients can be asked for, values, and ratios to the old policy."""
        opinion, _ = self.policy(self.batch.answers)
        return opinion.log_probability_N, self.value_head(opinion.hidden_ND), self.batch.columns.log_probability_N


def test_the_policy_loss_is_the_clipped_surrogate() -> None:
    scene = Scene()
    log_probability_N, _, old_N = scene.opinion()
    ratio_N = np.exp(log_probability_N.detach().numpy() - old_N.numpy())
    advantage_N = scene.batch.columns.advantage_N.numpy()
    expected = -sum(
        min(r * a, float(np.clip(r, 1 - CLIP, 1 + CLIP)) * a) for r, a in zip(ratio_N, advantage_N, strict=True)
    )
    losses = scene.losses()
    assert losses.objectives["policy_loss"].item() == pytest.approx(expected, rel=1e-4)
    outside = float((np.abs(ratio_N - 1) > CLIP).sum())
    assert 0 < losses.objectives["clip_fraction"].item() == outside < len(ratio_N)
    estimate = float((ratio_N - 1 - np.log(ratio_N)).sum())
    assert losses.objectives["approx_kl"].item() == pytest.approx(estimate, rel=1e-4)
    assert losses.probes[RATIO_ERROR].item() == pytest.approx(np.abs(ratio_N - 1).max(), rel=1e-4)
    assert losses.tokens.item() == scene.batch.targets == len(ratio_N)


@pytest.mark.parametrize("by", ["ppo", "reinforce"])
def test_the_gradient_is_zero_where_the_clip_binds_and_the_papers_elsewhere(
    by: Algorithm, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene(by)
    log_probability_N, _, old_N = scene.opinion()
    leaf_N = log_probability_N.detach().clone().requires_grad_()
    read = scene.policy.forward

    def with_leaf(answers: AnswerBatch) -> tuple[Opinion, Signal]:
        opinion, signal = read(answers)
        return Opinion(leaf_N, opinion.whole_N, opinion.entropy_N, opinion.hidden_ND), signal

    monkeypatch.setattr(scene.policy, "forward", with_leaf)
    scene.losses().objectives["policy_loss"].backward()
    ratio_N = (leaf_N.detach() - old_N).exp()
    advantage_N = scene.batch.columns.advantage_N
    binds_N = ((advantage_N > 0) & (ratio_N > 1 + CLIP)) | ((advantage_N < 0) & (ratio_N < 1 - CLIP))
    if by == "ppo":
        assert 0 < int(binds_N.sum()) < len(binds_N)
        expected_N = torch.where(binds_N, torch.zeros(()), -advantage_N * ratio_N)
    else:
        expected_N = -advantage_N
    assert leaf_N.grad is not None
    torch.testing.assert_close(leaf_N.grad, expected_N, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("by", ["ppo", "reinforce"])
def test_the_value_loss_takes_the_worse_of_the_free_and_the_clipped_error(by: Algorithm) -> None:
    scene = Scene(by)
    value_N = scene.opinion()[1].detach().numpy().astype(float)
    columns = scene.batch.columns
    return_N, old_N = (column.numpy().astype(float) for column in (columns.return_N, columns.value_N))
    expected = 0.0
    for value, wanted, old in zip(value_N, return_N, old_N, strict=True):
        free = (value - wanted) ** 2
        near = (old + min(max(value - old, -VALUE_CLIP), VALUE_CLIP) - wanted) ** 2
        expected += (max(free, near) if by == "ppo" else free) / 2
    assert scene.losses().objectives["value_loss"].item() == pytest.approx(expected, rel=1e-4)


def test_before_any_update_every_ratio_is_exactly_one() -> None:
    scene = Scene(drift=0.0)
    losses = scene.losses()
    assert losses.probes[RATIO_ERROR].item() <= 1e-6
    assert losses.objectives["clip_fraction"].item() == 0
    advantage = float(scene.batch.columns.advantage_N.sum())
    assert losses.objectives["policy_loss"].item() == pytest.approx(-advantage, rel=1e-4)


def test_all_parts_of_the_policy_and_the_critic_learn() -> None:
    scene = Scene()
    losses = scene.losses().objectives
    (losses["policy_loss"] + losses["value_loss"] - 0.01 * losses["entropy"]).backward()
    names = [
        name for name, parameter in scene.objective.trained() if parameter.grad is None or not parameter.grad.any()
    ]
    assert names == []
    assert {name for name, _ in scene.objective.trained()} >= {"heads.value.linear.weight", "embedding.weight"}


def test_losses_of_layers_are_sums_over_what_was_answered() -> None:
    """Where everything goes to all experts, their balance is 1 for each token."""
    losses = Scene(feed_forward={"type": "moe", "num_experts": 2, "top_k": 2}).losses()
    assert (losses.objectives["moe_balance"] / losses.tokens).item() == pytest.approx(1, rel=1e-5)


def test_a_micro_batch_as_long_as_another_ranks_costs_the_same() -> None:
    scene = Scene()
    losses = scene.losses()
    length = scene.batch.length + 7
    scene.batch = scene.batch.padded(length)
    assert scene.batch.length == scene.batch.inputs(torch.device("cpu"))[0].tokens_BT.shape[1] == length
    assert scene.batch.targets == losses.tokens
    for name, loss in scene.losses().objectives.items():
        torch.testing.assert_close(loss, losses.objectives[name], msg=name)


def test_a_fresh_critic_expects_nothing() -> None:
    assert ValueHead(8)(torch.randn(5, 8)).tolist() == [0.0] * 5


def test_the_pull_has_the_gradient_of_the_divergence_under_the_policys_own_samples() -> None:
    """Sum over all tokens of p(v) * gradient of (log p(v) - log q(v))^2 / 2 = gradient of KL(p || q)."""
    generator = torch.Generator().manual_seed(0)
    logits_V = torch.randn(7, generator=generator, dtype=torch.float64).requires_grad_()
    reference_V = torch.randn(7, generator=generator, dtype=torch.float64).log_softmax(0)
    log_V = logits_V.log_softmax(0)
    squared = (log_V.exp().detach() * (log_V - reference_V).square() / 2).sum()
    divergence = (log_V.exp() * (log_V - reference_V)).sum()
    (one,) = torch.autograd.grad(squared, logits_V, retain_graph=True)
    (other,) = torch.autograd.grad(divergence, logits_V)
    torch.testing.assert_close(one, other)


def test_the_pull_is_half_the_squared_distance_from_the_reference() -> None:
    scene = Scene()
    log_probability_N, _, _ = scene.opinion()
    apart_N = log_probability_N.detach().numpy() - scene.batch.columns.reference_N.numpy()
    assert scene.losses().objectives["pull"].item() == pytest.approx(PULL * float((apart_N**2).sum()) / 2, rel=1e-4)
