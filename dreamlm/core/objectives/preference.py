"""Bradley-Terry with lapses: what people prefer is the answer with the higher score, as far as they are sure of it.

Shapes: P pairs, B = 2P rows (the chosen answers, then the rejected ones in the same order), C components.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from dreamlm.core.objectives.objective import HEADS, Losses, Objective, over_targets
from dreamlm.core.rl.pair_reading import ReadPair
from dreamlm.core.rl.reading import Rows, side_by_side
from dreamlm.core.rl.reward_model import RewardModel, Verdict
from dreamlm.core.training.backend.backend import MicroBatch


@final
@dataclass(frozen=True)
class PairBatch(MicroBatch):
    """Some pairs, whole: both answers of a pair are read in one forward pass."""

    pairs: Sequence[ReadPair]
    padding_id: int
    seed: int = 0
    """Decides nothing: the model is trained without dropout and noise."""
    counts: bool = True
    """False where another process learns from these pairs, and this one reads them only to keep step with it."""
    least_length: int = 0
    """To which rows are padded."""

    @property
    def targets(self) -> int:
        return len(self.pairs) if self.counts else 0

    @property
    def length(self) -> int:
        longest = max(len(reading.ids) for pair in self.pairs for reading in (pair.chosen, pair.rejected))
        return max(longest, self.least_length)

    def padded(self, length: int) -> Self:
        return replace(self, least_length=length)

    def inputs(self, device: torch.device) -> tuple[Rows, Tensor]:
        both = [*[pair.chosen for pair in self.pairs], *[pair.rejected for pair in self.pairs]]
        measured_PC = torch.tensor([pair.measured_C for pair in self.pairs], device=device)
        return side_by_side(both, self.padding_id, device, self.least_length), measured_PC


@final
class PreferenceObjective(Objective):
    """Losses `preference`, and `components`: for each measured component, -log sigmoid of its own difference.

    The trunk runs without dropout and gate noise: a pair is decided by the difference of two passes, noise of its own
    in each would be learned as if it were the answers', and what is measured at the end is what was trained.
    """

    def __init__(self, reward: RewardModel) -> None:
        super().__init__()
        self.model = reward.trunk
        self.reward = reward.eval()
        for parameter in untrained(reward).values():
            parameter.requires_grad_(False)

    def trained(self) -> list[tuple[str, nn.Parameter]]:
        still = untrained(self.reward)
        trunk = [(name, parameter) for name, parameter in self.model.named_parameters() if name not in still]
        heads = [(f"{HEADS}{name}", parameter) for name, parameter in self.reward.heads.named_parameters()]
        return [*trunk, *heads]

    def forward(self, rows: Rows, measured_PC: Float[Tensor, "P C"]) -> Losses:
        verdict: Verdict = self.reward(rows)
        pairs = len(measured_PC)
        margin_P = _difference(verdict.score_B)
        confidence_P = (verdict.confidence_B[:pairs] * verdict.confidence_B[pairs:]).sqrt()
        nll = preference_nll(margin_P, confidence_P).sum()
        component_PC = _difference(verdict.component_BC)
        ranking = (F.softplus(-measured_PC * component_PC) * measured_PC.abs()).sum()
        probes = {
            "accuracy": ((margin_P > 0).float() + (margin_P == 0).float() / 2).mean(),
            "margin": margin_P.mean(),
            "confidence": confidence_P.mean(),
            "mixture": verdict.mixture_C,
            **verdict.probes,
        }
        losses = {"preference": nll, "components": ranking}
        losses |= over_targets(verdict.losses, rows.documents_BT, pairs)
        return Losses(
            losses, nll.detach(), torch.tensor(pairs), {name: value.detach() for name, value in probes.items()}
        )


def untrained(reward: RewardModel) -> dict[str, nn.Parameter]:
    """What no verdict depends on, by its name in the trunk: a language-model head with a weight of its own."""
    tied = reward.trunk.config.tie_embeddings
    return {} if tied else {f"head.{name}": weight for name, weight in reward.trunk.head.named_parameters()}


def preference_nll(margin_P: Float[Tensor, " P"], confidence_P: Float[Tensor, " P"]) -> Float[Tensor, " P"]:
    """-log of the probability that the chosen answer is preferred, in nats; ln 2 where the margin is 0.

    c * sigmoid(m) + (1 - c) / 2 is (1 + c * tanh(m / 2)) / 2, which loses no digits where c is near 1.
    """
    return math.log(2) - torch.log1p(confidence_P * torch.tanh(margin_P / 2))


def _difference(value_B: Tensor) -> Tensor:
    chosen, rejected = value_B.chunk(2)
    return chosen - rejected
