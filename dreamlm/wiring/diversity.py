"""`dreamlm eval --diversity`: a model's texts become a section of the report.

1. prompts: those given, or how held-out documents begin
2. the corpus that the model was trained on, for the n-grams it has seen; the reference, for what it finds likely
3. write the texts, look their n-grams up, ask the reference, measure
What cannot be had is left out, and the section says so by name.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from dreamlm.core.errors import DataError, RangeError, UserMistake
from dreamlm.core.evaluation.diversity import require_different, written
from dreamlm.core.evaluation.estimates import PerText
from dreamlm.core.evaluation.judgement import log_likelihoods
from dreamlm.core.evaluation.section import Section
from dreamlm.core.generation.row import Generation
from dreamlm.core.nn.diffusion import require_causal
from dreamlm.core.rl.reference import Reference
from dreamlm.core.training.memory import MEASURING, WRITING, within_memory
from dreamlm.data_sources.corpus import Corpus
from dreamlm.data_sources.openings import held_out_openings
from dreamlm.data_sources.seen import SeenNgrams
from dreamlm.wiring.evaluation import ShowProgress, Subject
from dreamlm.wiring.loading import Loaded, load
from dreamlm.wiring.places import corpus_folder, home

SEEN_LENGTH = 8
"""Tokens of the n-grams that are looked for in the training text: about six words of English."""
NO_REFERENCE = "log-likelihood is left out: name the checkpoint that judges the texts with --reference RUN"
SAME_MODEL = (
    "the reference is the model itself: it likes its own texts, so compare with no other model's log-likelihood"
)


@dataclass(frozen=True)
class DiversityRequest:
    """What the user asked for. Implements `wiring.evaluation.SectionRequest`."""

    texts: int
    """How many to write, at least 2."""
    prompts: Sequence[str] = ()
    """What they continue, in turn; without any, how held-out documents begin."""
    reference: Path | None = None
    """A run folder or a snapshot that judges the texts."""

    def prepare(self, subject: Subject) -> "PreparedDiversity":
        """Find prompts, training corpus and reference; load the reference.

        Raises: RangeError for fewer than 2 texts; UserMistake when there is nothing to begin a text with, or greedy
        writing would repeat itself; CheckpointError; DataError.
        """
        if self.texts < 2:
            raise RangeError(f"{self.texts} texts do not differ", where="--diversity", valid=["2 and more"])
        trained_on, notes = _training_corpus(subject)
        words = subject.preset.eval.diversity.prompt_words
        prompts = list(self.prompts) or _openings([*subject.corpora, *trained_on], words, self.texts)
        require_different(subject.preset.generate, len(prompts), self.texts)
        references = [_reference(self.reference, subject.device)] if self.reference is not None else []
        notes += [SAME_MODEL for one in references if one.folder.resolve() == subject.loaded.folder.resolve()]
        notes += [] if references else [NO_REFERENCE]
        return PreparedDiversity(subject, self.texts, prompts, trained_on, references, notes)


@final
class PreparedDiversity:
    """Prompts to continue, and what to judge the texts by. Implements `wiring.evaluation.PreparedSection`."""

    def __init__(
        self,
        subject: Subject,
        texts: int,
        prompts: Sequence[str],
        trained_on: Sequence[Corpus],
        references: Sequence[Loaded],
        notes: Sequence[str],
    ) -> None:
        """`trained_on` and `references` hold one each, or nothing; `notes` say why."""
        self._loaded, self._preset = subject.loaded, subject.preset
        self._texts, self._prompts, self._notes = texts, prompts, notes
        self._trained_on, self._references = trained_on, references

    def measure(self, show: ShowProgress) -> Section:
        """Write and measure.  Raises: OutOfMemory, OutOfSpace, DataError; as `generate` does."""
        loaded, sampling = self._loaded, self._preset.generate
        seen = [SeenNgrams.open(one, SEEN_LENGTH, home() / "cache", _Indexing(one, show)) for one in self._trained_on]
        with within_memory(WRITING.failure):
            texts = written(
                loaded.model,
                loaded.tokenizer,
                self._prompts,
                self._texts,
                sampling,
                lambda done, total: show("texts written", done, total),
            )
        with within_memory(MEASURING.failure):
            judged = [self._judged(texts, one, show) for one in self._references]
        more = [*(self._seen(texts, index) for index in seen), *judged]
        evaluation = self._preset.eval
        diversity = evaluation.diversity.build(evaluation.resampling)
        settings = {"generate": sampling.model_dump(mode="json", exclude={"rows"})}
        return diversity.measure(texts, more, self._notes, settings)

    def _seen(self, texts: Sequence[Generation], seen: SeenNgrams) -> PerText:
        """Each whole text is tokenised afresh, as documents are: a copy is found however the model divided it."""
        answers = [seen(ids) for ids in self._loaded.tokenizer.encode_batch([text.text for text in texts])]
        return PerText(
            f"seen {SEEN_LENGTH}-grams",
            f"share of all {SEEN_LENGTH}-grams of tokens that the training text has",
            [sum(answer) for answer in answers],
            [len(answer) for answer in answers],
        )

    def _judged(self, texts: Sequence[Generation], loaded: Loaded, show: ShowProgress) -> PerText:
        reference = Reference(loaded.model, loaded.tokenizer, self._preset.eval.rows)
        found = log_likelihoods(reference, texts, lambda done, total: show("texts judged", done, total))
        sums, tokens = zip(*found, strict=True)
        return PerText("log-likelihood", f"nats per token of {loaded.folder}", sums, tokens, is_share=False)


@final
class _Indexing:
    """Shows how far an index is. Implements `data_sources.progress.Progress`."""

    def __init__(self, corpus: Corpus, show: ShowProgress) -> None:
        self._total = sum(shard.tokens for shard in corpus.manifest.shards if shard.split == "train")
        self._done, self._show = 0, show

    def stage(self, name: str, total_bytes: int | None) -> None:
        self._done = 0

    def advance(self, text_bytes: int, tokens: int = 0) -> None:
        self._done += tokens
        self._show(f"tokens indexed by their {SEEN_LENGTH}-grams", self._done, self._total)

    def notice(self, message: str) -> None:
        """An index has nothing to say."""


def _reference(path: Path, device: str) -> Loaded:
    loaded = load(path, device)
    require_causal(loaded.model.config.diffusion, "a reference", f"--reference {path}", "name a causal checkpoint")
    return loaded


def _training_corpus(subject: Subject) -> tuple[list[Corpus], list[str]]:
    """The corpus that the model was trained on, or why it cannot be had."""
    fingerprint = subject.loaded.state.corpus
    if same := [corpus for corpus in subject.corpora if corpus.fingerprint == fingerprint]:
        return same, []
    folder = corpus_folder(subject.loaded.preset, fingerprint)
    try:
        corpus = Corpus.open(folder)
    except DataError as error:
        return [], [
            f"seen {SEEN_LENGTH}-grams are left out: the training corpus cannot be read: {error.what} ({folder})"
        ]
    if corpus.fingerprint != fingerprint:
        return [], [f"seen {SEEN_LENGTH}-grams are left out: {folder} is not the corpus that the model was trained on"]
    return [corpus], []


def _openings(corpora: Sequence[Corpus], words: int, count: int) -> list[str]:
    if not corpora:
        raise UserMistake(
            "there is no held-out document to begin the texts with",
            hint="give prompts with --prompts FILE, or name a corpus with --corpus DIR",
        )
    return held_out_openings(corpora[0], words, count)
