"""The learned reward: a language model's trunk, and heads that judge an answer by the vector at its last token.

    P(first answer is preferred) = c * sigmoid(score of first - score of second) + (1 - c) / 2,
        c = sqrt(confidence of first * confidence of second)

Shapes: B rows, T tokens, D width, C = 4 components.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dreamlm.core.heads.reward import COMPONENTS, RewardHeads
from dreamlm.core.inference import inference
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.rl.answer import Answer
from dreamlm.core.rl.reading import Reading, Rows, readings, side_by_side
from dreamlm.core.tokenizer import Tokenizer


@dataclass(frozen=True)
class Verdict:
    """What the heads say of a batch, in fp32, with what the trunk says of itself."""

    component_BC: Float[Tensor, "B C"]
    score_B: Float[Tensor, " B"]
    confidence_B: Float[Tensor, " B"]
    mixture_C: Float[Tensor, " C"]
    """How much of the score each component is."""
    losses: Mapping[str, Tensor]
    """Auxiliary losses of the trunk's parts, as sums over real tokens."""
    probes: Mapping[str, Tensor]


@dataclass(frozen=True)
class Judgement:
    """What the model says of one answer."""

    score: float
    confidence: float
    components: Mapping[str, float]


@final
class RewardModel(nn.Module):
    """Judges answers; any decoder is its trunk, with the tokenizer that it was trained with.

    Confidence is the share of the labels that the scores decide; the others are as good as thrown by a coin. Where a
    share e of the labels is turned round, the confidence that fits best is 1 - 2e, and no preference is surer than
    1 - e however far the scores lie apart. Pairs far apart tell it: were all equally far, scores closer together would
    explain the same labels. It belongs to a pair; an answer's own is the factor that it brings in.

    Preferences alone give the components no meaning: they see the sum only, the four heads get the same gradient, stay
    equal, and their mixture stays even. A component means what its name says as far as it was taught to rank answers
    by a measured value of that name (`PreferenceObjective`); the mixture then tells how much each of them counts.

    Source: Bradley & Terry 1952 for the scores; Wichmann & Hill 2001, section 2, for labels given regardless (lapses).
    """

    def __init__(self, trunk: DreamLM, tokenizer: Tokenizer, rows: int = 32) -> None:
        """`rows`: how many answers `score` reads at once; it changes no result."""
        super().__init__()
        self.trunk = trunk
        self.heads = RewardHeads(trunk.config.hidden_size).to(trunk.device)
        self.tokenizer = tokenizer
        self._rows = rows

    @property
    def window(self) -> int:
        """Tokens that it reads at most."""
        return self.trunk.config.seq_length

    def forward(self, rows: Rows) -> Verdict:
        """The verdict at each row's last real token."""
        carry = self.trunk.start(len(rows.tokens_BT), records=False)
        signal = self.trunk(rows.tokens_BT, rows.documents_BT, carry, boundaries=rows.padded)
        row_B = torch.arange(len(rows.last_B), device=rows.last_B.device)
        component_BC, score_B, confidence_B, mixture_C = self.heads(signal.hidden[row_B, rows.last_B])
        return Verdict(component_BC, score_B, confidence_B, mixture_C, signal.losses, signal.probes)

    def judge(self, answers: Sequence[Answer]) -> list[Judgement]:
        """What it says of each answer's text, whatever tokens the policy wrote it with."""
        texts = [(answer.prompt.text, answer.text) for answer in answers]
        return self.judge_readings(readings(self.tokenizer, self.window, texts))

    def score(self, answers: Sequence[Answer]) -> list[float]:
        """One number for each answer; only differences between answers mean something."""
        return [judgement.score for judgement in self.judge(answers)]

    def components(self, answers: Sequence[Answer]) -> dict[str, list[float]]:
        """The components of each answer's score, by name."""
        judgements = self.judge(answers)
        return {name: [judgement.components[name] for judgement in judgements] for name in COMPONENTS}

    def judge_readings(self, texts: Sequence[Reading]) -> list[Judgement]:
        """What it says of each reading; those of like length are read together."""
        by_length = sorted(range(len(texts)), key=lambda number: len(texts[number].ids))
        judgements: dict[int, Judgement] = {}
        with inference(self):
            for begin in range(0, len(texts), self._rows):
                numbers = by_length[begin : begin + self._rows]
                rows = [texts[number] for number in numbers]
                verdict: Verdict = self(side_by_side(rows, self.tokenizer.padding_id, self.trunk.device))
                judgements.update(zip(numbers, _judgements(verdict), strict=True))
        return [judgements[number] for number in range(len(texts))]


def _judgements(verdict: Verdict) -> list[Judgement]:
    rows = zip(verdict.score_B.tolist(), verdict.confidence_B.tolist(), verdict.component_BC.tolist(), strict=True)
    return [
        Judgement(score, confidence, dict(zip(COMPONENTS, components, strict=True)))
        for score, confidence, components in rows
    ]
