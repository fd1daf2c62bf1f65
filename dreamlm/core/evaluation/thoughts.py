"""Thoughts of held-out documents: what they are like, and what they are worth to the text that reads them.

documents -> thought_reading.py: the thoughts of each text
          -> ablation.py: its loss with other stacks than its own
          -> thought_metrics.py: a figure with its interval each, and differences of losses with theirs -> section.py

Texts are documents from their own beginning, cut into windows where they are longer. Figures are the same for any
number of rows at once: a text's thoughts, draws and donors depend on nothing that lies beside it.

Shapes: N texts.
"""

from collections.abc import Callable, Mapping, Sequence
from math import sqrt
from typing import Any, final

import numpy as np
import numpy.typing as npt
from pydantic import Field

from dreamlm.core.config import ConfigModel
from dreamlm.core.evaluation import thought_metrics as metrics
from dreamlm.core.evaluation.ablation import TextLosses, compared
from dreamlm.core.evaluation.bootstrap import Resampling
from dreamlm.core.evaluation.estimates import OfTheSet, PerText, mean_figure, set_figure, units_of
from dreamlm.core.evaluation.section import Figure, Picture, Section
from dreamlm.core.evaluation.thought_interventions import TrueStack
from dreamlm.core.evaluation.thought_reading import HeldOutThoughts
from dreamlm.core.evaluation.trajectory import BatchDiversity, Trajectory, Values, norms


@final
class Thoughts:
    """Measures thoughts, always in the same way."""

    class Config(ConfigModel):
        saturated_above: float = Field(0.95, gt=0.0, lt=1.0)
        """Size from which on a number of a thought counts as saturated."""
        sparse_below: float = Field(0.05, gt=0.0, lt=1.0)
        """Size up to which a number of a thought counts as next to nothing."""
        groups: int = Field(32, ge=5)
        """Most groups of documents that the jackknife leaves out in turn."""

        def build(self, resampling: Resampling) -> "Thoughts":
            return Thoughts(self, resampling)

    def __init__(self, config: Config, resampling: Resampling) -> None:
        self.config, self.resampling = config, resampling

    def measure(
        self,
        found: HeldOutThoughts,
        losses: Mapping[str, TextLosses],
        pictures: Sequence[Picture] = (),
        notes: Sequence[str] = (),
        details: Mapping[str, Any] | None = None,
    ) -> Section:
        """The figures of the thoughts, and behind them what other stacks cost.

        losses: by the name of the intervention, `true` among them.
        notes: what was left out and why.

        What is resampled are documents, each with all its texts; of a single document, its texts. Means have a
        percentile bootstrap, effective dimensionality and batch diversity, which belong to the set, a jackknife.
        Differences to the true stack are resampled as differences: every document is compared with itself.
        """
        unit_N = units_of(found.owner_N.tolist())
        stacks = compared(losses, TrueStack.name, "stack", "thoughts")
        thoughts, documents = sum(len(text) for text in found.texts), len(set(found.owner_N.tolist()))
        return Section(
            key="thoughts",
            title="Thoughts",
            summary=f"{thoughts:,} thoughts in {len(found.texts):,} texts of {documents:,} documents",
            figures=(
                *self._of_thoughts(found, unit_N),
                *(mean_figure(one, unit_N, self.resampling) for one in stacks),
            ),
            confidence=self.resampling.confidence,
            notes=tuple(notes),
            details={"texts": len(found.texts), "documents": documents, "thoughts": thoughts, **(details or {})},
            pictures=tuple(pictures),
        )

    def _of_thoughts(self, found: HeldOutThoughts, unit_N: npt.NDArray[np.int64]) -> list[Figure]:
        above, below = self.config.saturated_above, self.config.sparse_below
        largest = sqrt(found.numbers)
        most = max(1, min(found.numbers, sum(len(text) for text in found.texts) - 1))

        def mean(name: str, unit: str, measure: Callable[[Trajectory], Values], share: bool) -> Figure:
            values = [measure(text) for text in found.texts]
            sums, counts = [float(each.sum()) for each in values], [float(len(each)) for each in values]
            return mean_figure(PerText(name, unit, sums, counts, share), unit_N, self.resampling)

        def of_the_set(name: str, unit: str, statistic: Callable[..., float], most: float) -> Figure:
            one = OfTheSet(name, unit, statistic, most, is_share=False)
            return set_figure(one, unit_N, self.config.groups, self.resampling)

        directions = metrics.EffectiveDimensionality(found.texts)
        between = BatchDiversity(found.texts, found.owner_N)
        return [
            mean("norm mean", f"length of a thought, at most {largest:.4g}", norms, False),
            mean("norm std", "of the norms within a text", metrics.norm_deviation, False),
            mean("stability", "1 / (1 + norm std / norm mean) of a text", metrics.stability, True),
            mean("evolution rate", "mean change by mean norm of a text", metrics.evolution_rate, False),
            mean("temporal cosine", "of a thought and the one before", metrics.temporal_cosine, False),
            of_the_set("effective dimensionality", f"directions, of at most {most:,}", directions, most),
            mean(
                "saturation", f"share of numbers above {above:g} in size", lambda x: metrics.saturation(x, above), True
            ),
            mean("sparsity", f"share of numbers below {below:g} in size", lambda x: metrics.sparsity(x, below), True),
            of_the_set("batch diversity", "1 - cosine of thoughts of different documents", between, 2.0),
            mean("entropy", "share of the most that a thought's sizes can have", metrics.entropy, True),
            mean("convergence", "(early - late) / (early + late) change of a text", metrics.convergence, False),
            mean("oscillation", "minus the cosine of a change and the one before", metrics.oscillation, False),
        ]
