"""What sections of the report about one module of a model have in common: finding it, and reading without its own."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dreamlm.core.errors import UserMistake
from dreamlm.core.evaluation.ablation import TextLosses, ablated
from dreamlm.core.evaluation.likelihood import likelihood_of
from dreamlm.core.evaluation.reading import Reading
from dreamlm.core.types import Documents
from dreamlm.wiring.evaluation import ShowProgress, Subject

OF_BOUNDS = (
    "losses are upper bounds, as a diffusion model has no other; all ways of reading are measured with the same noise"
)


@dataclass(frozen=True)
class Wanted:
    """A type of module that an option asks for."""

    option: str
    type: str
    """In a preset."""
    lacking: str
    """What is wrong with a model that has none."""
    several: str
    """What two of them are called."""

    @property
    def example(self) -> str:
        """The module with its defaults, for a shell."""
        return f'\'[{{"type": "{self.type}"}}]\''

    def find(self, subject: Subject) -> tuple[str, list[str]]:
        """Name of the model's first module of the type, and notes: there are others, losses are bounds.

        Raises: UserMistake when there is none.
        """
        config = subject.loaded.model.config
        named = zip(config.module_names, config.modules, strict=True)
        names = [name for name, one in named if one.type == self.type]
        if not names:
            raise UserMistake(
                f"{self.option}: {self.lacking}",
                where=str(subject.loaded.folder),
                valid=[f'models whose preset has {{"type": "{self.type}"}} in model.modules'],
                hint=f"train one with --set model.segment_length=N --set model.modules={self.example}",
            )
        others = [f"of {len(names)} {self.several} only {names[0]} is looked at"] if len(names) > 1 else []
        return names[0], [*others, *([OF_BOUNDS] if config.fills_blocks else [])]


def losses_by_way(
    subject: Subject,
    documents: Documents,
    ways: Mapping[str, Callable[[npt.NDArray[np.int64]], Reading]],
    doing: str,
    show: ShowProgress,
) -> dict[str, TextLosses]:
    """The loss of every text, read in each way.  ways: as in `ablated`.  doing: what is shown of the progress."""
    loaded, evaluation = subject.loaded, subject.preset.eval
    return ablated(
        loaded.model,
        documents,
        evaluation.rows,
        ways,
        lambda read: likelihood_of(loaded.model, loaded.tokenizer.padding_id, evaluation.bound_samples, read=read),
        lambda done, total: show(doing, done, total),
    )
