"""Stages of a run that change settings of its model: `train.curriculum`.

The stage of a step is a pure function of the step's number, and the model in a stage one of that stage alone. So a run
that goes on needs to know nothing of the stages before, and `TrainingState` holds none.

What a snapshot was taken in stands in its `config.json`, as `stage` of the model's configuration: whoever builds a
model from there has it in that stage. Its `preset.json` is what the user asked for, which a resume compares.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Annotated, Any, Literal, final

from pydantic import AfterValidator, BeforeValidator, Field

from dreamlm.core.modules.stage import Stage
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.training.hooks import StagePlace


class CurriculumStage(Stage):
    """A stage, and how long a run stays in it."""

    name: str = Field(min_length=1)
    steps: int = Field(ge=1)
    """Optimizer steps, skipped ones among them. The last stage stays when they are over."""

    @property
    def settings(self) -> Stage:
        return Stage(**{key: getattr(self, key) for key in Stage.model_fields})


def _stage(name: str, steps: int, length: int, dreams: int, hops: int, images: bool = False) -> CurriculumStage:
    return CurriculumStage(
        name=name,
        steps=steps,
        dream_length=length,
        num_dream_sequences=dreams,
        graph_reasoning_hops=hops,
        images=images,
    )


DREAMING = (
    _stage("core", 1000, length=3, dreams=2, hops=2),
    _stage("multi_hop", 2000, length=5, dreams=4, hops=3),
    _stage("causal", 3000, length=7, dreams=4, hops=4),
    _stage("multimodal", 5000, length=5, dreams=4, hops=3, images=True),
)


def _by_name(value: Any) -> Any:
    if value is None:
        return ()
    if value == "dreaming":
        return DREAMING
    if isinstance(value, str):
        raise ValueError(f'must be "dreaming" or a list of stages, not "{value}"')
    return value


def _with_own_names(stages: tuple[CurriculumStage, ...]) -> tuple[CurriculumStage, ...]:
    twice = [name for name, times in Counter(stage.name for stage in stages).items() if times > 1]
    if twice:
        raise ValueError(f"several stages are called {', '.join(twice)}; give each a name of its own")
    return stages


CurriculumConfig = Annotated[
    tuple[CurriculumStage, ...],
    AfterValidator(_with_own_names),
    BeforeValidator(_by_name, json_schema_input_type=tuple[CurriculumStage, ...] | Literal["dreaming"] | None),
]
"""Stages in their order; "dreaming" is the four of `DREAMING`, null is none."""


@final
class Curriculum:
    """Which stage each step of a run belongs to; without stages there is nothing to enter and nothing to say.

    Steps are counted as in `TrainingState`: a step is meant by how many were done before it.
    """

    def __init__(self, stages: Sequence[CurriculumStage]) -> None:
        self._stages = tuple(stages)
        self._begins = [*accumulate((stage.steps for stage in stages), initial=0)][:-1]

    def enter(self, model: DreamLM, step: int) -> bool:
        """Bring the model into the stage of a step; whether it was in another."""
        if not self._stages:
            return False
        stage = self._stages[self._number(step)].settings
        if model.config.stage == stage:
            return False
        model.enter(stage)
        return True

    def place(self, step: int) -> StagePlace | None:
        """Which stage a step belongs to, for reports."""
        if not self._stages:
            return None
        number, of = self._number(step), len(self._stages)
        last_step = self._begins[number + 1] if number + 1 < of else None
        return StagePlace(self._stages[number].name, number + 1, of, last_step)

    def beginning(self, step: int) -> str:
        """What to say when a stage begins with a step; empty when none does."""
        if step not in self._begins:
            return ""
        number = self._begins.index(step)
        stage = self._stages[number]
        return (
            f"stage {stage.name}, {number + 1} of {len(self._stages)}: {_many(stage.num_dream_sequences, 'dream')} of "
            f"{_many(stage.dream_length, 'step')}, {_many(stage.graph_reasoning_hops, 'hop')}, "
            f"{'with' if stage.images else 'without'} images"
        )

    def remarks(self, planned_steps: int, model: DreamLM.Config) -> Iterator[str]:
        """What to say when a run of so many steps has stages that it does not come to, or that ask in vain."""
        names = [stage.name for stage in self._stages]
        reached = bisect_right(self._begins, planned_steps - 1)
        if beyond := names[reached:]:
            yield (
                f"train.curriculum: the run ends at step {planned_steps:,} and does not come to {', '.join(beyond)}; "
                f"the last stage begins at step {self._begins[-1] + 1:,}"
            )
        looking = [stage.name for stage in self._stages if stage.images]
        if looking and model.image_form is None:
            yield f"train.curriculum: {', '.join(looking)} is to look at images, and this model reads text alone"
        elif looking and looking == names and not any(one.has_stages for one in model.modules):
            yield "train.curriculum: its stages change nothing: this model looks at images without them, too"

    def _number(self, step: int) -> int:
        return bisect_right(self._begins, step) - 1


def _many(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
