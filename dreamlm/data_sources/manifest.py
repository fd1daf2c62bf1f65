"""What a corpus says about itself: written last, so a folder with a manifest is a complete corpus."""

from pathlib import Path
from typing import Any, Literal, TypeAlias

from pydantic import Field, JsonValue, ValidationError

from dreamlm.core.config import ConfigModel
from dreamlm.core.errors import DataError
from dreamlm.core.types import ImageForm

MANIFEST_FILE = "manifest.json"
FORMAT_VERSION = 1

Split: TypeAlias = Literal["train", "validation"]


class ShardRecord(ConfigModel):
    """One shard file."""

    path: str
    """Relative to the corpus folder, with forward slashes."""
    source: str
    split: Split
    documents: int
    tokens: int
    places: int = 0
    """How many of the tokens are places of pictures."""
    text_bytes: int
    """UTF-8 length of the documents."""
    file_bytes: int
    sha256: str
    unknown_tokens: int = Field(default=0, exclude=True)
    """How many of the tokens stand for text that the tokenizer does not know; told while preparing, and not kept."""

    @property
    def text_tokens(self) -> int:
        """Tokens without the places of pictures."""
        return self.tokens - self.places


class SourceRecord(ConfigModel):
    """What one source gave, and what of it was left out and why."""

    name: str
    fingerprint: str
    """Of the source's content and options; empty when it could not be read."""
    failure: str | None = None
    """Why the source as a whole gave nothing."""
    inputs: int = 0
    """Files or records read."""
    documents: int = 0
    """Documents kept."""
    text_bytes: int = 0
    tokens: int = 0
    """Without the places of pictures."""
    pictures: int = 0
    """How many of the documents show one: all of them, or none."""
    drops: dict[str, int] = Field(default_factory=dict)
    """How often something was left out, by reason."""
    examples: dict[str, list[str]] = Field(default_factory=dict)
    """The first inputs of each reason."""
    validation_threshold: float = 0.0
    """Documents whose hash, as a fraction of its range, lies below this are held out; of small sources some more."""


class TokenizerRecord(ConfigModel):
    """What readers of the tokens need to know about their tokenizer."""

    digest: str
    vocab_size: int
    end_of_document_id: int
    padding_id: int


class ImageRecord(ConfigModel):
    """The form of a corpus's pictures; see `core.types.ImageForm`."""

    size: int
    places: int


def in_words(form: ImageForm) -> str:
    """The form for somebody to read."""
    return f"{form.size} x {form.size} pixels in {form.places} places"


class Manifest(ConfigModel):
    """The whole of manifest.json."""

    version: int = FORMAT_VERSION
    key: dict[str, str]
    """Everything the content depends on, by component; equal keys mean equal corpora."""
    tokenizer: TokenizerRecord
    images: ImageRecord | None = None
    """None when no source has pictures: then the file does not speak of them."""
    sources: list[SourceRecord]
    shards: list[ShardRecord]

    def to_json(self) -> str:
        """The text of the file; equal manifests give equal text."""
        about_pictures: dict[str, Any] = {
            "images": True,
            "sources": {"__all__": {"pictures"}},
            "shards": {"__all__": {"places"}},
        }
        return self.model_dump_json(indent=1, exclude=None if self.images else about_pictures) + "\n"

    @property
    def image_form(self) -> ImageForm | None:
        """The form of its pictures; None when there are none."""
        return ImageForm(self.images.size, self.images.places) if self.images else None

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Raises: DataError when the folder holds no complete corpus of this version."""
        path = folder / MANIFEST_FILE
        hint = "`dreamlm prepare` builds a corpus from the sources of a preset"
        if not path.is_file():
            what = "no corpus here" if not folder.exists() else "this folder is no complete corpus, it has no manifest"
            raise DataError(what, where=str(path), hint=hint)
        try:
            manifest = cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            raise DataError(f"damaged manifest: {place}: {first['msg']}", where=str(path), hint=hint) from error
        if manifest.version != FORMAT_VERSION:
            what = f"corpus has format version {manifest.version}, this dreamlm reads {FORMAT_VERSION}"
            raise DataError(what, where=str(path), hint=hint)
        return manifest

    def summary(self) -> dict[str, JsonValue]:
        """Counts by split and source, drop reasons and failures; without the list of shards."""
        return {
            "version": self.version,
            "tokenizer": self.tokenizer.model_dump(),
            "splits": {split: self._counts(split) for split in ("train", "validation")},
            "images": self.images.model_dump() if self.images else None,
            "sources": [source.model_dump() for source in self.sources],
            "shards": len(self.shards),
            "file_bytes": sum(shard.file_bytes for shard in self.shards),
            "key": dict[str, JsonValue](self.key),
        }

    def _counts(self, split: str) -> dict[str, JsonValue]:
        shards = [shard for shard in self.shards if shard.split == split]
        return {
            "documents": sum(shard.documents for shard in shards),
            "pictures": sum(shard.documents for shard in shards if shard.places),
            "tokens": sum(shard.text_tokens for shard in shards),
            "text_bytes": sum(shard.text_bytes for shard in shards),
        }
