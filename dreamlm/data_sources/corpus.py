"""A prepared corpus on disk, opened for reading: checked against its manifest, memory-mapped where it is touched."""

import hashlib
import json
from functools import lru_cache, partial
from pathlib import Path

from dreamlm.core.errors import DataError, UserMistake
from dreamlm.core.tokenizer import Tokenizer
from dreamlm.core.types import ImageForm
from dreamlm.data_sources.captions import CaptionedDocuments
from dreamlm.data_sources.held_out import HeldOutDocuments, ValidationPart
from dreamlm.data_sources.manifest import Manifest, ShardRecord, Split, in_words
from dreamlm.data_sources.sequence import TokenSequence
from dreamlm.data_sources.shards import REBUILD_HINT, Shard, open_shard

OPEN_SHARDS = 256  # each costs a file descriptor


class Corpus:
    """The shards, the tokenizer and the manifest of one folder."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest
        self.source_names = tuple(source.name for source in manifest.sources if source.failure is None)
        self.failed_names = tuple(source.name for source in manifest.sources if source.failure is not None)
        self.fingerprint = _fingerprint(manifest)
        self._identity = _identity(folder)
        self._open_shard = lru_cache(maxsize=OPEN_SHARDS)(self._opened)

    @classmethod
    def open(cls, folder: Path) -> "Corpus":
        """Read the manifest and check that every file is there in its full size; contents are left to `verify`.

        Raises: DataError naming the file that is missing, cut short or too long.
        """
        manifest = Manifest.read(folder)
        for shard in manifest.shards:
            path = folder / shard.path
            size = path.stat().st_size if path.is_file() else None
            if size != shard.file_bytes:
                found = "is missing" if size is None else f"has {size} bytes instead of {shard.file_bytes}"
                raise DataError(f"shard {found}", where=str(path), hint=REBUILD_HINT)
        return cls(folder, manifest)

    @classmethod
    def find(cls, folder: Path) -> "Corpus | None":
        """As `open`, but None where there is no corpus, or only a damaged one."""
        try:
            return cls.open(folder)
        except DataError:
            return None

    def verify(self) -> None:
        """Read every file and compare its sha256, and the tokenizer its digest. Raises: DataError naming the file."""
        for shard in self.manifest.shards:
            path = self.folder / shard.path
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != shard.sha256:
                raise DataError(
                    "shard is damaged: its sha256 is not the manifest's", where=str(path), hint=REBUILD_HINT
                )
            if self._open_shard(path).tokenizer_digest != self.manifest.tokenizer.digest:
                raise DataError("shard was made with another tokenizer", where=str(path), hint=REBUILD_HINT)
        self.tokenizer()

    def require_form(self, form: ImageForm | None) -> None:
        """Raises: UserMistake when the corpus has pictures, and not as a model takes them that takes them so."""
        own = self.manifest.image_form
        if own is not None and own != form:
            takes = "takes none" if form is None else f"takes {in_words(form)}"
            raise UserMistake(
                f"the corpus has pictures of {in_words(own)}, the model {takes}",
                where=str(self.folder),
                hint="`dreamlm prepare` with the model's preset builds a corpus for it; --corpus DIR names its folder",
            )

    def tokenizer(self) -> Tokenizer:
        """The tokenizer that made the shards. Raises: DataError when the file in the folder is another one."""
        tokenizer = Tokenizer.load(self.folder)
        expected = self.manifest.tokenizer.digest
        if tokenizer.digest != expected:
            what = f"tokenizer has digest {tokenizer.digest[:12]}, the corpus was made with {expected[:12]}"
            raise DataError(what, where=str(self.folder / "tokenizer.json"), hint=REBUILD_HINT)
        return tokenizer

    def sequence(self, source: int, split: Split) -> TokenSequence:
        """All documents of a source (index into `source_names`) and split, end to end."""
        shards = self._shards(source, split)
        openers = [partial(self._open_shard, self.folder / shard.path) for shard in shards]
        ids = self.manifest.tokenizer
        return TokenSequence(openers, [shard.tokens for shard in shards], ids.end_of_document_id, ids.vocab_size)

    def share_of_places(self, source: int, split: Split) -> float:
        """Which part of a source's tokens, in a split that has some, are places of pictures."""
        shards = self._shards(source, split)
        return sum(shard.places for shard in shards) / sum(shard.tokens for shard in shards)

    def held_out(self, seq_length: int, max_tokens: int | None = None, packing: str = "document") -> HeldOutDocuments:
        """The validation documents, or an even sample of whole documents of about `max_tokens` tokens.

        Every source keeps its share, and at least one document. The sample never changes for a corpus.
        Raises: DataError when no document was held out.
        """
        ids = self.manifest.tokenizer
        return HeldOutDocuments.sample(
            self.validation_parts(),
            seq_length,
            max_tokens,
            packing,
            end_of_document_id=ids.end_of_document_id,
            padding_id=ids.padding_id,
            vocab_size=ids.vocab_size,
        )

    def validation_parts(self) -> list[ValidationPart]:
        """The held-out documents of each source that has some.  Raises: DataError when no document was held out."""
        parts = [
            ValidationPart(source, name, [self._open_shard(self.folder / shard.path) for shard in shards])
            for source, name in enumerate(self.source_names)
            if (shards := self._shards(source, "validation"))
        ]
        if not parts:
            hint = "raise data.validation_fraction, or add documents"
            raise DataError("no document was held out for validation", where=str(self.folder), hint=hint)
        return parts

    def captioned(self, split: Split) -> CaptionedDocuments:
        """The pictures of a split with their captions, of all sources in order.  Raises: DataError when it has none."""
        shards = [shard for shard in self.manifest.shards if shard.split == split and shard.places]
        if not shards:
            hint = 'add a source of pictures, such as {"type": "images", "paths": ...}'
            raise DataError(f"the {split} part has no pictures", where=str(self.folder), hint=hint)
        openers = [partial(self._open_shard, self.folder / shard.path) for shard in shards]
        return CaptionedDocuments(openers, [shard.documents for shard in shards], self.tokenizer())

    def _opened(self, path: Path) -> Shard:
        """A shard of the folder that was opened. Raises: DataError when another corpus has taken its place."""
        shard = open_shard(path) if _identity(self.folder) == self._identity else None
        if shard is None or _identity(self.folder) != self._identity:
            hint = "run the command again; give each of two uses its own folder with --corpus DIR"
            raise DataError("the corpus was replaced by another while it was in use", where=str(self.folder), hint=hint)
        return shard

    def _shards(self, source: int, split: Split) -> list[ShardRecord]:
        name = self.source_names[source]
        return [shard for shard in self.manifest.shards if shard.source == name and shard.split == split]


def _identity(folder: Path) -> tuple[int, int] | None:
    """Tells a folder from another one that was renamed to its place; None when there is none."""
    try:
        status = folder.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _fingerprint(manifest: Manifest) -> str:
    """sha256 over what training sees: the tokens in their order, and the tokenizer."""
    shards = [[shard.source, shard.split, shard.sha256] for shard in manifest.shards]
    return hashlib.sha256(json.dumps([manifest.tokenizer.digest, shards]).encode()).hexdigest()
