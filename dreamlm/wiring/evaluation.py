"""`dreamlm eval`: a trained model and held-out text become a report."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dreamlm.core.errors import UserMistake
from dreamlm.core.evaluation.report import PerplexityReport
from dreamlm.core.evaluation.text import TextHeldOut
from dreamlm.core.nn.positions.positions import LayerChoice
from dreamlm.core.training.memory import MEASURING, within_memory
from dreamlm.core.types import HeldOut
from dreamlm.data_sources.corpus import Corpus
from dreamlm.presets.layers import Assignment
from dreamlm.presets.resolve import resolve_values
from dreamlm.wiring.loading import Loaded, load
from dreamlm.wiring.places import corpus_folder


@dataclass(frozen=True)
class EvaluationRequest:
    """What the user asked for."""

    model: Path
    """A run folder or a snapshot."""
    text: Path | None = None
    """A UTF-8 file to measure on, instead of a corpus."""
    corpus: Path | None = None
    """Default: the corpus of the model's preset."""
    max_tokens: int | None = None
    sets: Sequence[str | Assignment] = ()
    """Applied to the model's preset."""
    device: str = "auto"
    extend_max_seq_len: int | None = None
    """Measure on windows of that many tokens, the model extended to them; default the windows of training."""
    rescale_layers: LayerChoice | None = None
    """Which layers see positions re-scaled for that."""


def evaluate(request: EvaluationRequest, on_progress: Callable[[int, int], None]) -> PerplexityReport:
    """Measure the model; on_progress gets batches done and batches in all.

    Raises: UserMistake, DataError, CheckpointError.
    """
    if request.text is not None and request.corpus is not None:
        raise UserMistake("measure on a text or on a corpus, not on both", hint="leave --text or --corpus out")
    loaded = load(
        request.model,
        request.device,
        extend_max_seq_len=request.extend_max_seq_len,
        rescale_layers=request.rescale_layers,
    )
    preset = resolve_values(loaded.preset.model_dump(mode="json"), str(loaded.folder), request.sets)
    if request.text is not None:
        held_out: HeldOut = TextHeldOut(_read(request.text), loaded.tokenizer, preset.model.seq_length)
        names: Sequence[str] = [request.text.name]
    else:
        corpus = _corpus(request.corpus, loaded)
        held_out = corpus.held_out(preset.model.seq_length, request.max_tokens, preset.data.packing)
        names = corpus.source_names
    with within_memory(MEASURING.failure):
        return preset.eval.build().run(loaded.model, held_out, names, on_progress)


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except OSError as error:
        raise UserMistake(f"cannot read the text: {error.strerror}", where=str(path)) from error
    except UnicodeDecodeError as error:
        raise UserMistake(f"the text is not UTF-8: {error.reason} at byte {error.start:,}", where=str(path)) from error


def _corpus(named: Path | None, loaded: Loaded) -> Corpus:
    folder = named or corpus_folder(loaded.preset, loaded.state.corpus)
    corpus = Corpus.open(folder)
    if corpus.manifest.tokenizer.digest != loaded.tokenizer.digest:
        raise UserMistake(
            "the corpus was tokenised with another tokenizer than the model's",
            where=str(folder),
            hint="measure on its text with --text FILE, or on another corpus with --corpus DIR",
        )
    if named is None and corpus.fingerprint != loaded.state.corpus:
        raise UserMistake(
            "the corpus of the model's preset was prepared anew and is not the one that the model was trained on",
            where=str(folder),
            hint=f"measure on it all the same with --corpus {folder}, or on its text with --text FILE",
        )
    return corpus
