"""`dreamlm eval`: a trained model and held-out text become a report.

1. load the model; open the held-out text
2. every section that was asked for beside perplexity says what it needs: mistakes show before anything is computed
3. perplexity, then the sections
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

from dreamlm.core.errors import UserMistake
from dreamlm.core.evaluation.likelihood import likelihood_of
from dreamlm.core.evaluation.section import EvaluationReport, Section
from dreamlm.core.evaluation.text import TextHeldOut
from dreamlm.core.nn.positions.positions import LayerChoice
from dreamlm.core.training.memory import MEASURING, within_memory
from dreamlm.core.types import HeldOut
from dreamlm.data_sources.cleaning import plain_line_ends
from dreamlm.data_sources.corpus import Corpus
from dreamlm.presets.layers import Assignment, require_read
from dreamlm.presets.resolve import resolve_values
from dreamlm.presets.schema import Preset
from dreamlm.wiring.loading import Loaded, load
from dreamlm.wiring.places import corpus_folder

ShowProgress: TypeAlias = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and how much there is in all."""

READ = ("eval", "generate", "data.packing")
"""What an evaluation reads of a preset beside what the model is like."""


@dataclass(frozen=True)
class Subject:
    """What is evaluated, and on what."""

    loaded: Loaded
    preset: Preset
    """The model's, with the settings of the request."""
    corpora: Sequence[Corpus]
    """The corpus that perplexity is measured on; empty when it is a text."""
    held_out: HeldOut
    """What perplexity is measured on."""
    device: str


class PreparedSection(Protocol):
    """A section that has everything it needs."""

    def measure(self, show: ShowProgress) -> Section: ...


class SectionRequest(Protocol):
    """Something to measure beside perplexity."""

    def prepare(self, subject: Subject) -> PreparedSection:
        """Find and check all that is needed.  Raises: UserMistake, DataError, CheckpointError."""
        ...


@dataclass(frozen=True)
class EvaluationRequest:
    """What the user asked for."""

    model: Path
    """A run folder or a snapshot."""
    text: Path | None = None
    """A UTF-8 file to measure on, instead of a corpus; a byte order mark is no part of it, and a line ends as in
    training."""
    corpus: Path | None = None
    """Default: the corpus of the model's preset."""
    max_tokens: int | None = None
    """Of a corpus: measure on a sample of its held-out documents."""
    sets: Sequence[str | Assignment] = ()
    """Applied to the model's preset; keys in `READ`, or below them."""
    device: str = "auto"
    extend_max_seq_len: int | None = None
    """Measure on windows of that many tokens, the model extended to them; default the windows of training."""
    rescale_layers: LayerChoice | None = None
    """Which layers see positions re-scaled for that."""
    sections: Sequence[SectionRequest] = ()
    """What to measure beside perplexity."""


def evaluate(
    request: EvaluationRequest, show: ShowProgress, on_notice: Callable[[str], None] = lambda text: None
) -> EvaluationReport:
    """Measure the model.  on_notice: told what was done to a text.  Raises: UserMistake, DataError, CheckpointError."""
    if request.text is not None and request.corpus is not None:
        raise UserMistake("measure on a text or on a corpus, not on both", hint="leave --text or --corpus out")
    if request.text is not None and request.max_tokens is not None:
        what = "a text is measured whole: --max-tokens takes a sample of a corpus's held-out documents"
        raise UserMistake(what, hint="leave --max-tokens out, or shorten the text")
    require_read(request.sets, READ, "eval.by=document")
    loaded = load(
        request.model,
        request.device,
        extend_max_seq_len=request.extend_max_seq_len,
        rescale_layers=request.rescale_layers,
    )
    preset = resolve_values(loaded.preset.model_dump(mode="json"), str(loaded.folder), request.sets)
    seq_length = loaded.model.config.seq_length
    if request.text is not None:
        corpora: Sequence[Corpus] = []
        held_out: HeldOut = TextHeldOut(_read(request.text, on_notice), loaded.tokenizer, seq_length)
        names: Sequence[str] = [request.text.name]
    else:
        corpora = [corpus := _corpus(request.corpus, loaded)]
        held_out = corpus.held_out(seq_length, request.max_tokens, preset.data.packing)
        names = corpus.source_names
    subject = Subject(loaded, preset, corpora, held_out, request.device)
    prepared = [section.prepare(subject) for section in request.sections]
    with within_memory(MEASURING.failure):
        perplexity = preset.eval.build().run(
            loaded.model,
            held_out,
            names,
            lambda done, total: show("batches measured", done, total),
            likelihood_of(loaded.model, loaded.tokenizer.padding_id, preset.eval.bound_samples),
        )
    return EvaluationReport(perplexity, tuple(section.measure(show) for section in prepared))


def _read(path: Path, on_notice: Callable[[str], None]) -> str:
    try:
        text = path.read_bytes().decode("utf-8").removeprefix("\ufeff")
    except OSError as error:
        raise UserMistake(f"cannot read the text: {error.strerror}", where=str(path)) from error
    except UnicodeDecodeError as error:
        raise UserMistake(f"the text is not UTF-8: {error.reason} at byte {error.start:,}", where=str(path)) from error
    plain = plain_line_ends(text)
    if plain != text:
        on_notice(f"{path}: every line is measured with a plain line feed at its end, as in training")
    return plain


def _corpus(named: Path | None, loaded: Loaded) -> Corpus:
    folder = named or corpus_folder(loaded.preset, loaded.state.corpus)
    corpus = Corpus.open(folder)
    if corpus.manifest.tokenizer.digest != loaded.tokenizer.digest:
        raise UserMistake(
            "the corpus was tokenised with another tokenizer than the model's",
            where=str(folder),
            hint="measure on its text with --text FILE, or on another corpus with --corpus DIR",
        )
    corpus.require_form(loaded.model.config.image_form)
    if named is None and corpus.fingerprint != loaded.state.corpus:
        raise UserMistake(
            "the corpus of the model's preset was prepared anew and is not the one that the model was trained on",
            where=str(folder),
            hint=f"measure on it all the same with --corpus {folder}, or on its text with --text FILE",
        )
    return corpus
