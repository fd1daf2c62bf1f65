"""`dreamlm eval --retrieval`: held-out pictures and their captions become a section of the report.

1. the model must have learned to compare pictures with captions
2. the corpus must have held some out
3. compare each with each
"""

from dataclasses import dataclass
from typing import final

from dreamlm.core.errors import UserMistake
from dreamlm.core.evaluation.retrieval import compared
from dreamlm.core.evaluation.section import Section
from dreamlm.core.nn.vision.vision import require_vision
from dreamlm.core.training.memory import MEASURING, within_memory
from dreamlm.core.types import Captioned
from dreamlm.wiring.evaluation import ShowProgress, Subject

FEWEST_PAIRS = 2


@final
@dataclass(frozen=True)
class RetrievalRequest:
    """What the user asked for. Implements `wiring.evaluation.SectionRequest`."""

    def prepare(self, subject: Subject) -> "PreparedRetrieval":
        """Find the held-out pictures.

        Raises: UserMistake when the model cannot compare them, or there is no corpus; DataError when it has none.
        """
        model, where = subject.loaded.model, str(subject.loaded.folder)
        form = require_vision(model.config.image_form)
        if not model.vision.compares:
            raise UserMistake(
                "--retrieval: this model did not learn which caption belongs to which picture",
                where=where,
                hint="train one with model.vision.use_contrastive_loss=true, and with pictures in the last stage of a "
                "curriculum",
            )
        if not subject.corpora:
            what = "--retrieval needs the held-out pictures of a corpus, and --text has none"
            raise UserMistake(what, hint="leave --text out, or name a corpus with --corpus DIR")
        subject.corpora[0].require_form(form)
        pairs = subject.corpora[0].captioned("validation")
        if len(pairs) < FEWEST_PAIRS:
            raise UserMistake(
                f"--retrieval: there is nothing to choose from among {len(pairs)} held-out picture",
                where=str(subject.corpora[0].folder),
                hint="raise data.validation_fraction, or add pictures",
            )
        return PreparedRetrieval(subject, pairs)


@final
class PreparedRetrieval:
    """A model that compares, and pairs to compare. Implements `wiring.evaluation.PreparedSection`."""

    def __init__(self, subject: Subject, pairs: Captioned) -> None:
        self._subject, self._pairs = subject, pairs

    def measure(self, show: ShowProgress) -> Section:
        """Compare each picture with each caption.  Raises: OutOfMemory."""
        evaluation = self._subject.preset.eval
        retrieval = evaluation.retrieval.build(evaluation.resampling)
        with within_memory(MEASURING.failure):
            found = compared(
                self._subject.loaded.model,
                self._pairs,
                retrieval.chosen(len(self._pairs)),
                evaluation.rows,
                lambda done, total: show("pictures compared", done, total),
            )
        return retrieval.measure(found)
