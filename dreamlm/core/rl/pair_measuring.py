"""How well a reward model predicts preferences, measured by all processes together."""

from collections.abc import Callable, Sequence

import numpy as np

from dreamlm.core.evaluation.preference import PreferenceReport, preference_report
from dreamlm.core.heads.reward import COMPONENTS
from dreamlm.core.rl.pair_reading import ReadPair
from dreamlm.core.rl.reading import Reading
from dreamlm.core.rl.reward_model import Judgement, RewardModel
from dreamlm.core.training.backend.backend import Backend


def judge_together(model: RewardModel, backend: Backend, texts: Sequence[Reading]) -> list[Judgement]:
    """What the model says of each reading, the same on every process: each judges every n-th.

    Collective; to be called inside `backend.whole()`.
    """
    mine = slice(backend.rank, None, backend.world_size)
    figures = np.zeros((len(texts), 2 + len(COMPONENTS)))
    for row, said in zip(figures[mine], model.judge_readings(texts[mine]), strict=True):
        row[:] = said.score, said.confidence, *(said.components[name] for name in COMPONENTS)
    rows = np.reshape(backend.sum(figures.flatten().tolist()), figures.shape).tolist()
    return [Judgement(row[0], row[1], dict(zip(COMPONENTS, row[2:], strict=True))) for row in rows]


def measure_on_pairs(
    judge: Callable[[Sequence[Reading]], Sequence[Judgement]], pairs: Sequence[ReadPair], looks: int = 1
) -> PreferenceReport:
    """How well what `judge` says predicts the pairs.  Raises: DataError without pairs; LossNotFinite."""
    judged = judge([reading for pair in pairs for reading in (pair.chosen, pair.rejected)])
    score_N2 = np.array([judgement.score for judgement in judged]).reshape(-1, 2)
    confidence_N2 = np.array([judgement.confidence for judgement in judged]).reshape(-1, 2)
    return preference_report(
        score_N2,
        np.sqrt(confidence_N2.prod(axis=1)),
        np.array([pair.chosen_is_first for pair in pairs], dtype=bool),
        np.array([[len(pair.chosen.ids), len(pair.rejected.ids)] for pair in pairs]).reshape(-1, 2),
        looks,
    )
