"""`dreamlm eval --thoughts`: the thoughts of a model on held-out documents become a section of the report.

1. the model must have a stack of thoughts
2. read every document for its thoughts; draw how those of one evolve
3. read every document again with each other stack, and measure what that costs
What cannot be had is left out, and the section says so by name.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from textwrap import shorten
from typing import final

from dreamlm.core.evaluation.ablation import donors
from dreamlm.core.evaluation.section import Section
from dreamlm.core.evaluation.thought_evolution import Evolution
from dreamlm.core.evaluation.thought_interventions import (
    Anothers,
    Intervened,
    Intervention,
    Shuffled,
    TrueStack,
    Zeroed,
    stack_of,
)
from dreamlm.core.evaluation.thought_picture import EvolutionPicture
from dreamlm.core.evaluation.thought_reading import HeldOutThoughts, collected
from dreamlm.core.training.memory import MEASURING, within_memory
from dreamlm.core.types import Documents
from dreamlm.wiring.evaluation import ShowProgress, Subject
from dreamlm.wiring.module_sections import Wanted, losses_by_way

WANTED = Wanted("--thoughts", "thought_stack", "this model has no stack of thoughts", "stacks of thoughts")
OPENING_TOKENS, OPENING_CHARACTERS = 40, 70
ONE_DOCUMENT = "another document's stack is left out: there is only one document"
NO_THOUGHT = (
    "nothing can be said of thoughts: no document is as long as a segment of {size} tokens; measure on longer ones "
    "with --text FILE or --corpus DIR"
)


@final
@dataclass(frozen=True)
class ThoughtsRequest:
    """What the user asked for. Implements `wiring.evaluation.SectionRequest`."""

    def prepare(self, subject: Subject) -> "PreparedThoughts":
        """Find the stack of thoughts.  Raises: UserMistake when the model has none."""
        return PreparedThoughts(subject, *WANTED.find(subject))


@final
class PreparedThoughts:
    """A model with thoughts, and held-out documents. Implements `wiring.evaluation.PreparedSection`."""

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
                lambda done, total: show("batches read for thoughts", done, total),
            )
            interventions, notes = _interventions(found, evaluation.seed)
            ways = {one.name: partial(Intervened, self._module, one) for one in interventions}
            losses = losses_by_way(self._subject, documents, ways, "batches read with other thoughts", show)
        evolutions = self._evolutions(found, documents)
        if not evolutions:
            notes = [*notes, NO_THOUGHT.format(size=model.config.segment)]
        return evaluation.thoughts.build(evaluation.resampling).measure(
            found,
            losses,
            [EvolutionPicture(one) for one in evolutions],
            [*self._notes, *notes],
            {
                "module": self._module,
                "reading_tokens": int(losses[TrueStack.name].reading_tokens_N.sum()),
                "tokens": int(losses[TrueStack.name].tokens_N.sum()),
                "evolution": [one.to_json() for one in evolutions],
            },
        )

    def _evolutions(self, found: HeldOutThoughts, documents: Documents) -> list[Evolution]:
        """That of the longest text, which is the first, if it has any thought."""
        if not len(found.texts[0]):
            return []
        loaded = self._subject.loaded
        ids = [int(one) for one in documents.batches(1)[0].tokens[0][:OPENING_TOKENS]]
        end = loaded.tokenizer.end_of_document_id
        opening = shorten(
            loaded.tokenizer.decode([one for one in ids if one != end]), OPENING_CHARACTERS, placeholder=" …"
        )
        size = stack_of(loaded.model.start(1), self._module).size
        return [Evolution.of(found.texts[0], size, loaded.model.config.segment, opening)]


def _interventions(found: HeldOutThoughts, seed: int) -> tuple[list[Intervention], list[str]]:
    """The stacks to read with, and which of them there is not."""
    own = [TrueStack(), Zeroed(), Shuffled(seed)]
    donor_N = donors(found.owner_N)
    if (donor_N < 0).any():
        return own, [ONE_DOCUMENT]
    return [*own, Anothers(found.texts, donor_N)], []
