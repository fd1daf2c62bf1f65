"""From sources to a corpus on disk. The only way a corpus comes to be.

1. Look: every source fingerprints its content; an existing corpus with the same key is used as it is.
2. Draw: documents stream from the sources into spools on disk; exact duplicates are dropped on the way.
3. Split: documents with a low hash are held out. 4. Train the tokenizer on an even sample of the rest, or load it.
5. Tokenise the spools into shards, on several processes. 6. Write the manifest, and rename the finished folder.

Everything is built in a hidden sibling of the corpus folder and renamed at the end, so a killed run leaves no half
corpus, and the next one starts anew and writes the same bytes, whatever the number of processes. What the killed one
read of PDFs and of streams from the hub lies in the cache, and is not read again.

Memory is bounded whatever the size of the input: the sources' own bound, the sample for the tokenizer (about 10 bytes
a byte, `tokenizer.sample_bytes`), and for each process about five times `shard_text_bytes` plus the longest document;
with pictures, about twenty-four times.
"""

import glob
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import final

from filelock import FileLock, Timeout
from pydantic import Field

from dreamlm.core.config import ConfigModel
from dreamlm.core.durable import sync_folder
from dreamlm.core.errors import DataError, ResumeMismatch, UserMistake
from dreamlm.core.tokenizer import CONFIG_FILE, TOKENIZER_FILE, BytePair, Pretrained
from dreamlm.core.types import ImageForm
from dreamlm.data_sources.corpus import Corpus
from dreamlm.data_sources.durable import full_disk_explained
from dreamlm.data_sources.manifest import MANIFEST_FILE, in_words
from dreamlm.data_sources.preparation.build import SPLITS, CorpusBuilder
from dreamlm.data_sources.preparation.cache_key import (
    CODE_VERSION,
    LIMIT,
    PICTURES,
    UNKNOWN,
    VERSION,
    Difference,
    differences,
    options_component,
    reusable,
    tokenizer_component,
)
from dreamlm.data_sources.preparation.draw import reason
from dreamlm.data_sources.progress import Progress, Silence
from dreamlm.data_sources.sources import SourceConfig
from dreamlm.data_sources.sources.source import Source, SourceContext


@final
class Preparation:
    """A request to prepare a corpus: the sources, the options, and the key that both amount to."""

    class Config(ConfigModel):
        """Which documents make up the corpus."""

        sources: list[SourceConfig] = Field(min_length=1)
        """Where documents come from, in order; of exact duplicates the first one stays."""
        min_text_length: int = Field(default=50, ge=1)
        """Characters; shorter documents are dropped."""
        validation_fraction: float = Field(default=0.01, ge=0, le=0.5)
        """Share of the documents that is held out, chosen by a hash of their text; 0 holds out none."""
        validation_documents: int = Field(default=16, ge=0, le=10_000)
        """Held out at least of each source; to reach this number, never more than a tenth of its documents (one of
        fewer than ten). All of a source are never held out."""
        deduplicate: bool = True
        """Drop exact duplicates of documents, within and across sources."""
        shard_text_bytes: int = Field(default=8 * 2**20, ge=1024)
        """About how much UTF-8 text, or eight times as many bytes of pixels, goes into one shard file; memory grows
        with it."""

    def __init__(
        self,
        config: Config,
        tokenizer_config: BytePair | Pretrained,
        folder: Path,
        *,
        workers: int = 1,
        progress: Progress | None = None,
        stream_byte_limit: int | None = None,
        cache_folder: Path,
        base_folder: Path,
        image_form: ImageForm | None = None,
        keeps_older: bool = False,
    ) -> None:
        """`folder`: of the corpus; another request's corpus in it is replaced.  `workers`: processes that tokenise.
        `stream_byte_limit`: bytes of text after which sources end that have neither an end nor a limit of their own.
        `cache_folder`: keeps extracted text between runs.  `base_folder`: where relative paths of sources start.
        `image_form`: how the model takes pictures; None when it takes none.  `keeps_older`: what is replaced stays,
        beside the folder.

        Raises: UserMistake when two sources have one name, a source without an end has no limit, or one has pictures
        and nobody says in which form they are wanted.
        """
        self.config, self.tokenizer_config, self.folder = config, tokenizer_config, folder.absolute()
        self.keeps_older = keeps_older
        self.workers, self.progress = workers, progress if progress is not None else Silence()
        context = SourceContext(
            base_folder=base_folder,
            cache_folder=cache_folder,
            workers=workers,
            min_text_length=config.min_text_length,
            image_form=image_form,
            on_notice=self.progress.notice,
        )
        pictured = [source.source_name for source in config.sources if source.has_pictures]
        self.image_form = _form_of(pictured, image_form) if pictured else None
        self.sources = [source.build(context) for source in config.sources]
        _require_different_names(self.sources)
        self.limits = [
            _limit(source, options, stream_byte_limit)
            for source, options in zip(self.sources, config.sources, strict=True)
        ]

    def key(self) -> dict[str, str]:
        """Everything the corpus depends on, by component. Cost: reads every local input once."""
        options = self.config.model_dump(mode="json", include=set(CORPUS_OPTIONS - {"sources"}))
        key = {"code": str(CODE_VERSION), "tokenizer": self._tokenizer_component()}
        key |= options_component(options)
        if self.image_form is not None:
            key[PICTURES] = in_words(self.image_form)
        key["order of sources"] = ", ".join(source.name for source in self.sources)
        for source, limit in zip(self.sources, self.limits, strict=True):
            if limit is not None:
                key[f"{LIMIT}{source.name}"] = str(limit)
            key[f"source {source.name}"] = self._looked_at(source, source.fingerprint)
            if version := self._looked_at(source, source.version):
                key[f"{VERSION}{source.name}"] = version
        return key

    def _looked_at(self, source: Source, look: Callable[[], str]) -> str:
        """What a look at the source says, or UNKNOWN, with a notice when there is a corpus that may be out of date."""
        try:
            return look()
        except DataError as error:
            if self._corpus_exists():
                what = f"source {source.name} cannot be looked at: {reason(error)}"
                self.progress.notice(f"{what}; the corpus that is there is taken to be up to date")
            return UNKNOWN

    def _tokenizer_component(self) -> str:
        try:
            return tokenizer_component(self.tokenizer_config)
        except UserMistake as error:
            if self._corpus_exists():
                what = f"the tokenizer {error.where} cannot be looked at"
                self.progress.notice(f"{what}; the corpus that is there is taken to be made with it")
            return UNKNOWN

    def _corpus_exists(self) -> bool:
        return (self.folder / MANIFEST_FILE).exists()

    def differences(self) -> list[Difference]:
        """Why the corpus in the folder cannot be used for this request; empty when it can."""
        found = reusable(self.folder, self.key())
        return [] if isinstance(found, Corpus) else found

    def run(self, trained_on: str = "") -> Corpus:
        """Use the corpus in the folder when its key is the same, else build it and put it there.

        `trained_on` is the fingerprint of the corpus of a run that goes on. The run keeps that, whatever became of its
        inputs since; another one in the folder is somebody else's and stays.

        Raises: AllSourcesFailed, OutOfSpace, UserMistake when the folder holds something else than a corpus,
        ResumeMismatch when it holds another one than the run's, or the inputs make another one.
        """
        self.progress.stage("look at sources", None)
        key = self.key()
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        with self._only_one():
            there = Corpus.find(self.folder) if trained_on else None
            if there is not None:
                _require_same(there, trained_on, self.folder)
                for difference in differences(key, there.manifest.key):
                    self.progress.notice(f"the run keeps its corpus: {difference}")
                return there
            found = reusable(self.folder, key)
            if isinstance(found, Corpus):
                return found
            _require_replaceable(self.folder)
            return self._build(key, trained_on)

    def _build(self, key: dict[str, str], trained_on: str) -> Corpus:
        if key["tokenizer"] == UNKNOWN:
            self.tokenizer_config.build([])  # raises again, now that no corpus is there to do without it
        parent, prefix = self.folder.parent, f".{self.folder.name}.preparing-"
        for stale in parent.glob(f"{glob.escape(prefix)}*"):
            shutil.rmtree(stale, ignore_errors=True)  # a dying process may still write there; the next run tries again
        workshop = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        try:
            builder = CorpusBuilder(
                workshop, self.config, self.tokenizer_config, self.workers, self.progress, self.image_form
            )
            with full_disk_explained(parent, builder.expected_bytes):
                finished = builder.build(self.sources, self.limits, key)
                if trained_on:
                    _require_same(Corpus.open(finished), trained_on, self.folder)
                if self.folder.exists():
                    self.folder.rename(self._aside() or workshop / "replaced")
                finished.rename(self.folder)
                sync_folder(parent)
        finally:
            shutil.rmtree(workshop)
        return Corpus.open(self.folder)

    def _aside(self) -> Path | None:
        """Where a whole corpus goes that is to be kept, as a run may be trained on it; None when there is none."""
        older = Corpus.find(self.folder) if self.keeps_older else None
        place = self.folder.with_name(f"{self.folder.name}-{older.fingerprint[:12]}") if older is not None else None
        if place is None or place.exists():
            return None
        self.progress.notice(f"the corpus that was there is kept, for runs that go on with it: {place}")
        return place

    @contextmanager
    def _only_one(self) -> Iterator[None]:
        """Wait until no other process prepares this corpus."""
        path = self.folder.parent / f".{self.folder.name}.lock"
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            self.progress.notice(f"another process prepares {self.folder.name}; waiting for it")
            lock.acquire()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)  # while it is held: whoever waits sees that it has no name, and makes another
            lock.release()


CORPUS_OPTIONS = frozenset(Preparation.Config.model_fields)
"""The options that decide what is in a corpus; a preset's data section also says how training draws from it."""


def _require_different_names(sources: Sequence[Source]) -> None:
    names = [source.name for source in sources]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        hint = "give each source its own `name`"
        raise UserMistake(f"two sources are called {', '.join(repeated)}", where="data.sources", hint=hint)


def _form_of(pictured: Sequence[str], image_form: ImageForm | None) -> ImageForm:
    if image_form is None:
        what = f"source {pictured[0]} gives pictures, and the model takes none"
        hint = "give the model eyes, as with --set model.vision=lite, or leave the source out"
        raise UserMistake(what, where="data.sources", hint=hint)
    return image_form


def has_end(source: Source, options: SourceConfig) -> bool:
    """Whether a source ends by itself or by its own options, so that nobody else need say how much of it to keep."""
    return source.bounded or options.max_bytes is not None or options.max_documents is not None


def _limit(source: Source, options: SourceConfig, stream_byte_limit: int | None) -> int | None:
    if has_end(source, options):
        return None
    if stream_byte_limit is None:
        hint = "set its max_bytes or max_documents"
        raise UserMistake(f"source {source.name} has no end", where="data.sources", hint=hint)
    return stream_byte_limit


def _require_replaceable(folder: Path) -> None:
    """A folder that is no corpus, whole or damaged, belongs to somebody else. Raises: UserMistake."""
    occupied = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    if occupied and not _is_ours(folder):
        hint = "choose another folder, or move this one away"
        raise UserMistake("the folder for the corpus holds something else", where=str(folder), hint=hint)


def _require_same(corpus: Corpus, trained_on: str, folder: Path) -> None:
    """Raises: ResumeMismatch when the corpus is not the one with that fingerprint."""
    if corpus.fingerprint != trained_on:
        raise ResumeMismatch(
            f"the run was trained on a corpus with fingerprint {trained_on[:12]}, this one has "
            f"{corpus.fingerprint[:12]}: its inputs, options or tokenizer changed",
            where=str(folder),
            hint="name the run's own corpus with --corpus DIR, or restore its inputs and name a folder that is not "
            "there, or start another run with --run OTHER",
        )


def _is_ours(folder: Path) -> bool:
    """Whether a folder holds what a corpus holds and nothing else; a snapshot, for one, has a manifest.json as well."""
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if MANIFEST_FILE not in names or names - {MANIFEST_FILE, TOKENIZER_FILE, CONFIG_FILE, *SPLITS}:
        return False
    try:
        manifest = json.loads((folder / MANIFEST_FILE).read_bytes())
    except ValueError:
        return True  # damaged: there is nothing in it to lose
    return isinstance(manifest, dict) and "shards" in manifest
