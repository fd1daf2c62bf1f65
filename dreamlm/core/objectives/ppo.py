"""Proximal policy optimisation over the tokens of answers, and REINFORCE with a baseline to compare it with.

Shapes: N tokens of all answers of a micro-batch.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from dreamlm.core.heads.value import ValueHead
from dreamlm.core.objectives.objective import HEADS, Losses, Objective, over_targets
from dreamlm.core.rl.experience import Columns
from dreamlm.core.rl.policy import AnswerBatch, Policy

Algorithm = Literal["ppo", "reinforce"]
RATIO_ERROR = "ratio_error"


class PolicyObjective(Objective):
    """The losses of policy and value, the entropy, and what tells how far the policy has moved.

    policy     ppo: -min(r A, clip(r, 1 - c, 1 + c) A) with r = p / p_old; reinforce: -A log p
    value      max((V - R)^2, (V_old + clip(V - V_old, -c, c) - R)^2) / 2; reinforce: (V - R)^2 / 2
    pull       towards the reference: pull * (log p - log p_reference)^2 / 2, both among all tokens
    entropy    of the policy on the support of each token
    approx_kl  (r - 1) - log r, an unbiased and never negative estimate of KL(p_old || p)
    clip_fraction   where r lies beyond the clip
    All are sums over tokens; the last two have no gradient. The probe `ratio_error` is the largest |r - 1|.

    The model runs as in evaluation, without dropout and gate noise: they would make r differ from 1 before any update.
    Source: Schulman et al. 2017; the estimate: Schulman 2020, "Approximating KL divergence".
    """

    def __init__(self, policy: Policy, value_head: ValueHead, clip: float, value_clip: float, by: Algorithm) -> None:
        super().__init__()
        self.model, self.policy, self.value_head = policy.model, policy, value_head
        self._clip, self._value_clip, self._by = clip, value_clip, by

    def trained(self) -> list[tuple[str, nn.Parameter]]:
        heads = [(f"{HEADS}value.{name}", parameter) for name, parameter in self.value_head.named_parameters()]
        return [*super().trained(), *heads]

    def forward(
        self,
        answers: AnswerBatch,
        old: Columns,
        pull: float,
    ) -> Losses:
        self.model.eval()
        opinion, signal = self.policy(answers)
        assert opinion.entropy_N is not None
        value_N = self.value_head(opinion.hidden_ND)
        log_ratio_N = opinion.log_probability_N - old.log_probability_N
        ratio_N = log_ratio_N.exp()
        with torch.no_grad():
            approx_kl = (ratio_N - 1 - log_ratio_N).sum()
            ratio_error = (ratio_N - 1).abs().max()
            clipped = ((ratio_N - 1).abs() > self._clip).float().sum()
        objectives = {
            "policy_loss": self._policy_loss(opinion.log_probability_N, ratio_N, old.advantage_N),
            "value_loss": self._value_loss(value_N, old.return_N, old.value_N),
            "pull": pull * (opinion.whole_N - old.reference_N).square().sum() / 2,
            "entropy": opinion.entropy_N.sum(),
            "approx_kl": approx_kl,
            "clip_fraction": clipped,
            **over_targets(signal.losses, answers.documents_BT, len(ratio_N)),
        }
        nll = -opinion.log_probability_N.detach().sum()
        return Losses(objectives, nll, torch.tensor(len(ratio_N)), {**signal.probes, RATIO_ERROR: ratio_error})

    def _policy_loss(self, log_probability_N: Tensor, ratio_N: Tensor, advantage_N: Tensor) -> Tensor:
        if self._by == "reinforce":
            return -(advantage_N * log_probability_N).sum()
        clipped_N = ratio_N.clamp(1 - self._clip, 1 + self._clip)
        return -torch.minimum(ratio_N * advantage_N, clipped_N * advantage_N).sum()

    def _value_loss(self, value_N: Tensor, return_N: Tensor, old_value_N: Tensor) -> Tensor:
        error_N = (value_N - return_N).square()
        if self._by == "ppo":
            near_N = old_value_N + (value_N - old_value_N).clamp(-self._value_clip, self._value_clip)
            error_N = torch.maximum(error_N, (near_N - return_N).square())
        return error_N.sum() / 2


UNTRAINED = ("approx_kl", "clip_fraction")
"""Objectives that are looked at only."""
