"""From prompts to experience: answer, judge, measure, reward each token, estimate advantages.

    1. the policy answers (reading its cache) and the judge scores the answers
    2. the training pass reads policy, critic and reference on the answers, micro-batch by micro-batch as the first
       epoch will, so that the first ratio of an update is exactly 1
    3. the last token earns the answer's normalised score; where the pull towards the reference is part of the reward,
       every token pays for it
    4. advantages over real tokens only, whitened over all processes

Shapes: N tokens of one answer.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, final

import numpy as np
import torch

from dreamlm.core.heads.value import ValueHead
from dreamlm.core.rl.advantages import Floats, Total, explained_variance, generalised_advantages, whitened
from dreamlm.core.rl.agreement import Disagreement, disagreement
from dreamlm.core.rl.answer import Answer, Prompt
from dreamlm.core.rl.config import PolicyConfig
from dreamlm.core.rl.experience import Experience
from dreamlm.core.rl.failing import failing_together
from dreamlm.core.rl.moments import RunningMoments
from dreamlm.core.rl.policy import AnswerBatch, Policy, columns_of
from dreamlm.core.rl.rewards.mix import Scores
from dreamlm.core.rl.rewards.ngrams import distinct_share
from dreamlm.core.rl.rollout import Rollout, roll_out
from dreamlm.core.tokenizer import Tokenizer
from dreamlm.core.training.backend.backend import Backend


class Judge(Protocol):
    """Scores answers; `core.rl.rewards` has the measured ones."""

    def score(self, answers: Sequence[Answer]) -> Scores: ...


@dataclass(frozen=True)
class Opinions:
    """Of one answer by token."""

    policy_N: Floats
    """Log-probabilities by the policy, on the support."""
    whole_N: Floats
    """The same among all tokens."""
    reference_N: Floats
    """By the reference, among all tokens."""
    value_N: Floats


@dataclass(frozen=True)
class Written:
    """Answers of this process, and what was thought of them."""

    rollouts: Sequence[Rollout]
    scores: Scores
    opinions: Sequence[Opinions]
    seconds: float
    """Of writing."""

    @property
    def tokens(self) -> int:
        return sum(len(one.answer.ids) for one in self.rollouts)


@dataclass(frozen=True)
class Summary:
    """Means over the answers of all processes, or their tokens."""

    reward: float
    reward_deviation: float
    """Of a single answer's score, estimated without bias of its square; 0 for one answer."""
    components: Mapping[str, float]
    kl: float
    """Mean log p - log p_reference, in nats per token."""
    length: float
    ended: float
    repetition: float
    """Share of an answer's 3-grams that it had before."""
    answers: int
    tokens: int


@dataclass(frozen=True)
class Collected:
    """The experience of this process, and what describes that of all."""

    experience: Sequence[Experience]
    moments: RunningMoments
    summary: Summary
    explained_variance: float
    disagreement: Disagreement
    """Of the pass that drew the tokens and the pass that trains."""
    rollout_seconds: float


@final
class Collector:
    """Answers prompts with the policy and works out what each token was worth."""

    def __init__(
        self,
        config: PolicyConfig,
        backend: Backend,
        policy: Policy,
        value_head: ValueHead,
        reference: Policy,
        tokenizer: Tokenizer,
        judge: Judge,
    ) -> None:
        """policy: around the model of the backend."""
        self._config, self._backend, self._tokenizer, self._judge = config, backend, tokenizer, judge
        self._policy, self._value_head, self._reference = policy, value_head, reference

    def write(
        self, prompts: Sequence[Prompt], seeds: Sequence[int], groups: Sequence[Sequence[int]], in_step: bool
    ) -> Written:
        """Answers of the policy, judged. Collective.

        groups: which answers are read together; every answer is in one.
        in_step: whether the groups are the micro-batches of a step, to be read as the step will read them; each process
        has as many then.
        Raises: LogitsNotFinite, RewardNotFinite, UserMistake when no reward applies to an answer; on every process.
        """
        with self._backend.whole():
            begin = time.monotonic()
            with failing_together(self._backend), self._backend.autocast():
                rollouts = roll_out(self._backend.model, self._tokenizer, prompts, self._config.rollout, seeds)
                seconds = time.monotonic() - begin
            lengths = [columns_of([rollouts[number] for number in group]) for group in groups]
            opinions = self._opinions(rollouts, groups, self._backend.lengths_in_step(lengths) if in_step else lengths)
        with failing_together(self._backend):
            scores = self._judge.score([one.answer for one in rollouts])
        return Written(rollouts, scores, opinions, seconds)

    def collect(self, written: Written, coefficient: float, moments: RunningMoments) -> Collected:
        """What each token of the answers was worth; collective.

        coefficient: what a nat of divergence from the reference costs at a token.
        """
        config, total = self._config, self._backend.sum
        scores = [
            self._shaped(score, one.answer) for score, one in zip(written.scores.total, written.rollouts, strict=True)
        ]
        moments = moments.including(scores, total)
        advantages = []
        for score, opinion in zip(scores, written.opinions, strict=True):
            reward_N = np.zeros_like(opinion.policy_N)
            reward_N[-1] = moments.normalised(score, config.score_limit)
            if config.kl.applied == "reward":
                # On a scale that does not grow with the coefficient, lest the critic's errors drown the policy.
                reward_N = (reward_N - coefficient * (opinion.whole_N - opinion.reference_N)) / (1 + coefficient)
            advantages.append(generalised_advantages(reward_N, opinion.value_N, config.discount, config.trace))
        values = [opinion.value_N for opinion in written.opinions]
        returns = [advantage_N + value_N for advantage_N, value_N in zip(advantages, values, strict=True)]
        experience = [
            Experience(rollout, opinion.policy_N, opinion.reference_N, opinion.value_N, advantage_N, return_N)
            for rollout, opinion, advantage_N, return_N in zip(
                written.rollouts, written.opinions, whitened(advantages, total), returns, strict=True
            )
        ]
        return Collected(
            experience,
            moments,
            summary(written, total),
            explained_variance(returns, values, total),
            self._disagreement(written),
            written.seconds,
        )

    def _opinions(
        self, rollouts: Sequence[Rollout], groups: Sequence[Sequence[int]], lengths: Sequence[int]
    ) -> list[Opinions]:
        found: dict[int, Opinions] = {}
        self._policy.eval()
        for group, length in zip(groups, lengths, strict=True):
            chosen = [rollouts[number] for number in group]
            batch = AnswerBatch.of(chosen).padded(length).to(self._backend.device)
            with torch.no_grad(), self._backend.autocast():
                opinion, _ = self._policy(batch, entropies=False)
                value_N = self._value_head(opinion.hidden_ND)
                reference, _ = self._reference(batch, entropies=False)
            ends = np.cumsum([len(one.answer.ids) for one in chosen])[:-1]
            columns = [
                np.split(column_N.double().cpu().numpy(), ends)
                for column_N in (opinion.log_probability_N, opinion.whole_N, reference.whole_N, value_N)
            ]
            found |= {number: Opinions(*parts) for number, *parts in zip(group, *columns, strict=True)}
        return [found[number] for number in range(len(rollouts))]

    def _disagreement(self, written: Written) -> Disagreement:
        drawn = [one.log_probabilities_N.astype(np.float64) for one in written.rollouts]
        read = [opinion.policy_N for opinion in written.opinions]
        return disagreement(drawn, read, self._config.rollout.temperature, self._backend)

    def _shaped(self, score: float, answer: Answer) -> float:
        """The score after the penalties for an answer that was cut off, and for one that is too long."""
        config = self._config
        beyond = max(0, len(answer.ids) - config.length_target) if config.length_target is not None else 0
        return score - config.length_penalty * beyond - (0.0 if answer.ended else config.missing_end_penalty)


def summary(written: Written, total: Total) -> Summary:
    """Means over all processes; collective."""
    answers = [one.answer for one in written.rollouts]
    apart = math.fsum(float((one.whole_N - one.reference_N).sum()) for one in written.opinions)
    sums = [
        float(len(answers)),
        float(written.tokens),
        math.fsum(written.scores.total),
        apart,
        float(sum(answer.ended for answer in answers)),
        math.fsum(1.0 - distinct_share(answer.ids, 3) for answer in answers),
    ]
    names = list(written.scores.components)
    for name in names:
        applied = [value for value in written.scores.components[name] if value is not None]
        sums += [math.fsum(applied), float(len(applied))]
    count, tokens, reward, apart, ended, repeated, *parts = total(sums)
    mean = reward / count
    (squares,) = total([math.fsum((score - mean) ** 2 for score in written.scores.total)])
    pairs = zip(names, parts[::2], parts[1::2], strict=True)
    return Summary(
        reward=mean,
        reward_deviation=math.sqrt(squares / (count - 1)) if count > 1 else 0.0,
        components={name: summed / applied for name, summed, applied in pairs if applied},
        kl=apart / tokens,
        length=tokens / count,
        ended=ended / count,
        repetition=repeated / count,
        answers=int(count),
        tokens=int(tokens),
    )
