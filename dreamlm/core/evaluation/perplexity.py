"""Perplexity on held-out text.

held-out windows -> score.py: loss of each -> bootstrap.py: how far to trust it -> report.py -> JSON, plots.py
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal, final

import numpy as np
import numpy.typing as npt
from pydantic import Field

from dreamlm.core.config import ConfigModel
from dreamlm.core.evaluation.bootstrap import Interval, Resampling
from dreamlm.core.evaluation.bound import LEAST_SAMPLES
from dreamlm.core.evaluation.diversity import Diversity
from dreamlm.core.evaluation.dreams import Dreams
from dreamlm.core.evaluation.estimates import PerText, mean_figure, units_of
from dreamlm.core.evaluation.likelihood import BOUND_SAMPLES, NEXT_TOKEN, Likelihood
from dreamlm.core.evaluation.report import PerplexityReport, Score, SourceScore, perplexity_of
from dreamlm.core.evaluation.retrieval import Retrieval
from dreamlm.core.evaluation.score import WindowScores, no_progress, score
from dreamlm.core.evaluation.thoughts import Thoughts
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.types import HeldOut


@final
class Evaluation:
    """Measures models on held-out text, always in the same way."""

    class Config(ConfigModel):
        rows: int = Field(16, ge=1, le=1_000_000)
        """Windows computed at once; changes speed and memory, not the result."""
        bound_samples: int = Field(BOUND_SAMPLES, ge=LEAST_SAMPLES)
        """Times at which a diffusion model's bound looks at each block; more cost time and lower its error, which one
        alone would not tell."""
        by: Literal["window", "document"] = "window"
        """`window`: one document behind the other, cut wherever a window ends, as training sees them. `document`: each
        from its own beginning and at its own length, those of similar length together."""
        confidence: float = Field(0.95, gt=0.0, lt=1.0)
        """Of the bootstrap intervals."""
        resamples: int = Field(1000, ge=100, le=1_000_000)
        """Bootstrap resamples; with 1000 an interval's ends wobble by a few percent of its width."""
        seed: int = Field(0, ge=0)
        """Of the bootstrap."""
        diversity: Diversity.Config = Diversity.Config()
        """What `dreamlm eval --diversity` counts."""
        dreams: Dreams.Config = Dreams.Config()
        """What `dreamlm eval --dreams` counts."""
        retrieval: Retrieval.Config = Retrieval.Config()
        """What `dreamlm eval --retrieval` compares."""
        thoughts: Thoughts.Config = Thoughts.Config()
        """What `dreamlm eval --thoughts` counts."""

        @property
        def resampling(self) -> Resampling:
            """How the intervals of all sections are made."""
            return Resampling(self.confidence, self.resamples, self.seed)

        def build(self) -> "Evaluation":
            return Evaluation(self)

    def __init__(self, config: Config) -> None:
        self.config = config

    def run(
        self,
        model: DreamLM,
        held_out: HeldOut,
        source_names: Sequence[str] = (),
        on_progress: Callable[[int, int], None] = no_progress,
        likelihood: Likelihood = NEXT_TOKEN,
    ) -> PerplexityReport:
        """Cross-entropy, perplexity and bits per byte of the model on the held-out text.

        source_names: names of the sources by index; a source beyond them is called by its number.
        on_progress: gets batches done and batches in all.
        likelihood: how the model is measured.

        Raises: DataError when the windows hold other targets than they promise; DreamLMError when a loss is not finite
        or differs from a plain cross-entropy.
        """
        documents = held_out.by_document() if self.config.by == "document" else None
        scores = score(model, held_out if documents is None else documents, self.config.rows, on_progress, likelihood)
        everything = np.ones(len(scores.nll_N), dtype=np.bool_)
        owner_N = np.arange(len(everything)) if documents is None else documents.owner_N
        overall = self._score(scores, owner_N, everything)
        bits_per_byte = overall.tokens / (math.log(2) * held_out.utf8_bytes)
        return PerplexityReport(
            **vars(overall),
            bits_per_byte=overall.cross_entropy * bits_per_byte,
            bits_per_byte_interval=_mapped(overall.cross_entropy_interval, lambda nats: nats * bits_per_byte),
            utf8_bytes=held_out.utf8_bytes,
            sources=tuple(
                SourceScore(**vars(self._score(scores, owner_N, scores.source_N == source)), source=name)
                for source, name in _named(scores, source_names)
            ),
            position_cross_entropy=_by_position(scores),
            confidence=self.config.confidence,
            resamples=self.config.resamples,
            seed=self.config.seed,
            padding=1.0 - overall.tokens / scores.places,
            parity_error=scores.parity_error,
            is_bound=likelihood.is_bound(model),
            monte_carlo_error=math.sqrt(scores.variance_N.sum()) / overall.tokens,
        )

    def _score(self, scores: WindowScores, owner_N: npt.NDArray[np.int64], chosen_N: npt.NDArray[np.bool_]) -> Score:
        """owner_N: whose each window is; what one owns is resampled together."""
        nll_N, tokens_N = scores.nll_N[chosen_N], scores.tokens_N[chosen_N].astype(np.float64)
        cross_entropy = float(nll_N.sum() / tokens_N.sum())
        loss = PerText("cross-entropy", "nats per token", nll_N.tolist(), tokens_N.tolist(), is_share=False)
        interval = mean_figure(loss, units_of(owner_N[chosen_N].tolist()), self.config.resampling).interval
        return Score(
            windows=len(nll_N),
            tokens=int(tokens_N.sum()),
            cross_entropy=cross_entropy,
            cross_entropy_interval=interval,
            perplexity=perplexity_of(cross_entropy),
            perplexity_interval=_mapped(interval, perplexity_of),
        )


def evaluate(
    model: DreamLM,
    held_out: HeldOut,
    rows: int,
    source_names: Sequence[str] = (),
    on_progress: Callable[[int, int], None] = no_progress,
) -> PerplexityReport:
    """`Evaluation.run` with `rows` windows at once and every other setting at its default."""
    return Evaluation.Config(rows=rows).build().run(model, held_out, source_names, on_progress)


def _mapped(interval: Interval | None, change: Callable[[float], float]) -> Interval | None:
    return Interval(change(interval.low), change(interval.high)) if interval is not None else None


def _named(scores: WindowScores, source_names: Sequence[str]) -> list[tuple[int, str]]:
    present = [int(source) for source in np.unique(scores.source_N)]
    return [(source, source_names[source] if source < len(source_names) else f"source {source}") for source in present]


def _by_position(scores: WindowScores) -> tuple[float, ...]:
    """NaN where a place has no target, up to the last that has one."""
    reached = scores.position_tokens_T > 0
    mean_T = np.full(len(reached), math.nan)
    mean_T[reached] = scores.position_nll_T[reached] / scores.position_tokens_T[reached]
    return tuple(float(loss) for loss in mean_T[: np.flatnonzero(reached)[-1] + 1])
