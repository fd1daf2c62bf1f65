"""One reward of several components: measured ones, and a learned one."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias, final

from pydantic import Field, model_validator

from dreamlm.core.config import ConfigModel
from dreamlm.core.errors import DreamLMError, UserMistake
from dreamlm.core.rl.answer import Answer
from dreamlm.core.rl.reference import Reference
from dreamlm.core.rl.rewards.coherence import coherence
from dreamlm.core.rl.rewards.correctness import Metric, correctness
from dreamlm.core.rl.rewards.creativity import Seen, creativity, nothing_seen
from dreamlm.core.rl.rewards.faithfulness import faithfulness

NAMES = ("faithfulness", "coherence", "correctness", "creativity", "learned")
SHOWN = 80
"""Characters of a text in an error message."""

Values: TypeAlias = tuple[float | None, ...]
"""One for each answer; None where the component says nothing about it."""
Measure: TypeAlias = Callable[[Sequence[Answer]], Sequence[float | None]]
Learned: TypeAlias = Callable[[Sequence[Answer]], Sequence[float]]
"""A reward model fitted on preferences: the higher the better. Scores of about -1 to 1 mix well with the measured."""


class RewardNotFinite(DreamLMError):
    """A component of the reward is NaN or infinite."""


@dataclass(frozen=True)
class Scores:
    """What answers are worth, and why."""

    components: Mapping[str, Values]
    """By public name, unweighted."""
    total: tuple[float, ...]
    """The weighted mean of each answer's components."""


@final
class Rewards:
    """Scores answers by a weighted mean of components.

    A component that does not apply to an answer (correctness without a reference answer) is left out of that answer's
    mean: its weight goes to the others in proportion.

    The default weights: a reference answer counts most where there is one. Coherence has four times the weight of
    creativity because inverse perplexities are small: at equal weights random tokens (creativity 0.99, coherence 0.00)
    earn more than what a small model writes (0.90 and 0.04), at these they earn less. Faithfulness has none: under a
    small reference, shuffled words of the prompt have more of it than a sensible answer.
    """

    class Config(ConfigModel):
        faithfulness: float = Field(0.0, ge=0.0, allow_inf_nan=False)
        """Weight of how much likelier the prompt becomes given the answer."""
        coherence: float = Field(0.4, ge=0.0, allow_inf_nan=False)
        """Weight of the answer's likelihood under the reference, less what it repeats."""
        correctness: float = Field(1.0, ge=0.0, allow_inf_nan=False)
        """Weight of the agreement with the reference answer, where there is one."""
        creativity: float = Field(0.1, ge=0.0, allow_inf_nan=False)
        """Weight of varied words that are not copied."""
        learned: float = Field(0.0, ge=0.0, allow_inf_nan=False)
        """Weight of a reward model; 0 needs none."""
        correctness_metric: Metric = "f1"
        """`f1` or `exact` as in SQuAD, or `words`: the share of the reference answer's words that occur."""
        measure_all: bool = True
        """Measure, for the metrics, components of weight 0 too; they cost up to three readings of each answer."""

        @model_validator(mode="after")
        def _something_counts(self) -> "Rewards.Config":
            if not any(self.weights.values()):
                raise ValueError("every weight is 0: give at least one component a weight above 0")
            return self

        @property
        def weights(self) -> Mapping[str, float]:
            """By name of the component, as they were given; only their proportions matter."""
            return {name: getattr(self, name) for name in NAMES}

        def build(self, reference: Reference, seen: Seen = nothing_seen, learned: Learned | None = None) -> "Rewards":
            """`seen` knows the training text.  Raises: UserMistake when a reward model has weight but is not there."""
            if self.learned and learned is None:
                hint = "name a reward model, or set the weight to 0"
                raise UserMistake("the learned reward has weight, but there is no reward model", hint=hint)
            measures: dict[str, Measure] = {
                "faithfulness": partial(faithfulness, reference=reference),
                "coherence": partial(coherence, reference=reference),
                "correctness": partial(correctness, metric=self.correctness_metric),
                "creativity": partial(creativity, seen=seen),
            }
            if learned is not None:
                measures["learned"] = learned
            return Rewards(self, measures)

    def __init__(self, config: Config, measures: Mapping[str, Measure]) -> None:
        """`measures` by name; those of weight 0 are used when the configuration says so."""
        self.weights = config.weights
        self._measures = {
            name: measure for name, measure in measures.items() if self.weights[name] or config.measure_all
        }

    def score(self, answers: Sequence[Answer]) -> Scores:
        """What each answer is worth; in [-1, 1] when the learned component is.

        Raises: RewardNotFinite naming component and answer; UserMistake when no component with weight applies.
        """
        components = {name: self._values(name, measure, answers) for name, measure in self._measures.items()}
        total = tuple(
            self._mean({name: values[number] for name, values in components.items()}, answer)
            for number, answer in enumerate(answers)
        )
        return Scores(components, total)

    def _values(self, name: str, measure: Measure, answers: Sequence[Answer]) -> Values:
        values = tuple(measure(answers))
        for value, answer in zip(values, answers, strict=True):
            if value is not None and not math.isfinite(value):
                raise RewardNotFinite(f"the reward component {name} is {value}", where=_shown(answer))
        return values

    def _mean(self, values: Mapping[str, float | None], answer: Answer) -> float:
        applied = [(self.weights[name], value) for name, value in values.items() if value is not None]
        weight = math.fsum(weight for weight, _ in applied)
        if not weight:
            raise UserMistake(
                "no component of the reward applies to this answer",
                where=_shown(answer),
                hint="give its prompt a reference answer, or weight to a component besides correctness",
            )
        return math.fsum(weight * value for weight, value in applied) / weight


def _shown(answer: Answer) -> str:
    """The beginnings of an answer and its prompt, on one line."""
    return f"answer {answer.text[:SHOWN]!r} to prompt {answer.prompt.text[:SHOWN]!r}"
