"""`dreamlm eval --dreams`: what a model dreams of held-out documents becomes a section of the report.

1. the model must have a module that dreams
2. read every document for its dreams
3. read every document again with each other kind of dreams, and measure what that costs
What cannot be had is left out, and the section says so by name.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import final

from dreamlm.core.evaluation.ablation import donors
from dreamlm.core.evaluation.dream_interventions import (
    Anothers,
    Intervened,
    Intervention,
    MeanDreams,
    OwnDreams,
    Reversed,
    Zeroed,
)
from dreamlm.core.evaluation.dream_reading import HeldOutDreams, collected, dreaming_of
from dreamlm.core.evaluation.section import Section
from dreamlm.core.training.memory import MEASURING, within_memory
from dreamlm.wiring.evaluation import ShowProgress, Subject
from dreamlm.wiring.module_sections import Wanted, losses_by_way

WANTED = Wanted("--dreams", "dreaming", "this model does not dream", "modules that dream")
ONE_DOCUMENT = "another document's dreams are left out: there is only one document"
ONE_TEXT = "the mean of all texts' dreams is left out: there is only one text"
NO_GATE = "who dreams is nobody's choice: without a gate the dream's number alone decides"
NO_DREAM = (
    "nothing can be said of dreams: no document is as long as a segment of {size} tokens; measure on longer ones "
    "with --text FILE or --corpus DIR"
)


@final
@dataclass(frozen=True)
class DreamsRequest:
    """What the user asked for. Implements `wiring.evaluation.SectionRequest`."""

    def prepare(self, subject: Subject) -> "PreparedDreams":
        """Find the module that dreams.  Raises: UserMistake when the model has none."""
        module, notes = WANTED.find(subject)
        gated = dreaming_of(subject.loaded.model, module).config.gated
        return PreparedDreams(subject, module, notes if gated else [*notes, NO_GATE])


@final
class PreparedDreams:
    """A model that dreams, and held-out documents. Implements `wiring.evaluation.PreparedSection`."""

    def __init__(self, subject: Subject, module: str, notes: Sequence[str]) -> None:
        self._subject, self._module, self._notes = subject, module, notes

    def measure(self, show: ShowProgress) -> Section:
        """Read and measure.  Raises: OutOfMemory."""
        evaluation = self._subject.preset.eval
        model, documents = self._subject.loaded.model, self._subject.held_out.by_document()
        with within_memory(MEASURING.failure):
            found = collected(
                model,
                self._module,
                documents,
                evaluation.rows,
                lambda done, total: show("batches read for dreams", done, total),
            )
            interventions, notes = _interventions(found)
            ways = {one.name: partial(Intervened, self._module, one) for one in interventions}
            losses = losses_by_way(self._subject, documents, ways, "batches read with other dreams", show)
        if not found.segments:
            notes = [*notes, NO_DREAM.format(size=model.config.segment)]
        own = losses[OwnDreams.name]
        return evaluation.dreams.build(evaluation.resampling).measure(
            found,
            losses,
            [*self._notes, *notes],
            {
                "module": self._module,
                "reading_tokens": int(own.reading_tokens_N.sum()),
                "tokens": int(own.tokens_N.sum()),
            },
        )


def _interventions(found: HeldOutDreams) -> tuple[list[Intervention], list[str]]:
    """The dreams to read with, and which of them there are not."""
    chosen: list[Intervention] = [OwnDreams(), Zeroed()]
    notes = []
    if len(found.texts) > 1:
        chosen.append(MeanDreams(found.means()))
    else:
        notes.append(ONE_TEXT)
    donor_U = donors(found.owner_U)
    if (donor_U >= 0).all():
        chosen.append(Anothers(found.texts, donor_U))
    else:
        notes.append(ONE_DOCUMENT)
    return [*chosen, Reversed(found.texts)], notes
