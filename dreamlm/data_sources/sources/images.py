"""Folders of pictures with a file that says what each of them shows, laid out as `datasets` wants an imagefolder."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from importlib import metadata
from pathlib import Path, PureWindowsPath
from typing import Any, Literal, Self, final

from pydantic import Field, JsonValue, model_validator

from dreamlm.core.errors import DataError
from dreamlm.core.home import expanded
from dreamlm.core.types import Document
from dreamlm.data_sources.cleaning import CLEANING_VERSION
from dreamlm.data_sources.images.picture import PICTURE_VERSION
from dreamlm.data_sources.retry import reason_of
from dreamlm.data_sources.sources.admission import limited
from dreamlm.data_sources.sources.captioned import CaptionForm, captioned
from dreamlm.data_sources.sources.files import InputFile, is_folder, plain_suffix
from dreamlm.data_sources.sources.record_files import RecordOptions, read_records
from dreamlm.data_sources.sources.records import Record, RecordFormat, UnusableRecord, check_format
from dreamlm.data_sources.sources.source import (
    Paths,
    Source,
    SourceContext,
    SourceOptions,
    SourceReport,
    Strings,
    file_name_safe,
    fingerprint_of,
)

CAPTION_FILES = ("metadata.jsonl", "captions.jsonl", "metadata.csv")
"""Looked for in this order, where the configuration names none."""
KINDS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".parquet": "parquet"}


@dataclass(frozen=True)
class Folder:
    """A folder of pictures and its captions file."""

    path: Path
    captions: InputFile

    @property
    def read_as(self) -> tuple[str, str]:
        """The content of the captions file, and the kind of records that its suffix says it has."""
        return self.captions.content, KINDS[plain_suffix(self.captions.name)]

    def records(self, wanted: Sequence[str], report: SourceReport) -> Iterator[Record]:
        """The records of the captions file, in order; see `RecordOptions.wanted`."""
        return read_records(self.captions, self.read_as[1], RecordOptions(wanted=tuple(wanted)), report)

    def locate(self, value: Any) -> Path:
        """The file that a record names.  Raises: UnusableRecord for what is no name, or leads out of the folder."""
        if not isinstance(value, str) or not value.strip():
            raise UnusableRecord("names no picture")
        parts = PureWindowsPath(value)  # understands both kinds of slashes, and drives
        if parts.anchor or ".." in parts.parts:
            raise UnusableRecord("the picture's path leaves the folder")
        return self.path / value


@final
class ImageFolders(Source):
    """Captions with their pictures: folders in the order of their captions files' content, each in its file's order."""

    class Config(SourceOptions):
        """Folders of pictures, each with a file of captions."""

        type: Literal["images"]
        """Captioned pictures; the model needs `model.vision`."""
        paths: Paths
        """Folders; each holds a captions file, which names pictures in it and in its subfolders."""
        captions: str | None = Field(default=None, pattern=r"^[^/\\]+$")
        """Name of the captions file (JSON Lines, CSV or Parquet); absent: `metadata.jsonl`, `captions.jsonl` or
        `metadata.csv`."""
        image_field: str = Field(default="file_name", min_length=1)
        """Field that names the picture's file, relative to the folder."""
        fields: Strings = ()
        """Fields that make the caption; joined by a line break when there is no format. Absent: `text`."""
        format: str | None = None
        """How a record becomes a caption, such as `{title}: {description}`."""
        min_text_length: int = Field(default=1, ge=1)
        """Characters; shorter captions are dropped. `data.min_text_length` is for longer texts, and not asked here."""

        @model_validator(mode="after")
        def _consistent(self) -> Self:
            check_format(self.fields, self.format)
            if self.captions is not None and plain_suffix(self.captions) not in KINDS:
                raise ValueError(f"captions must be a file of {', '.join(KINDS)}, not {self.captions}")
            return self

        @property
        def has_pictures(self) -> bool:
            """Always."""
            return True

        def default_name(self) -> str:
            """The last part of the first path."""
            return file_name_safe(Path(self.paths[0]).name or "images")

        def build(self, context: SourceContext) -> "ImageFolders":
            """The live source."""
            return ImageFolders(self, context)

    def __init__(self, config: Config, context: SourceContext) -> None:
        self.name = config.source_name
        self.bounded = True
        self._config = config
        self._context = context

    def fingerprint(self) -> str:
        """See `Source`: the captions files, the pictures that they name, the options, and the versions of the readers.

        A picture that is not there has no content; once it is there, the fingerprint is another one.
        """
        return fingerprint_of(
            {
                "options": self._config.model_dump(mode="json", exclude={"name", "paths", "captions"}),
                "versions": [CLEANING_VERSION, *picture_versions()],
                "contents": [[*folder.read_as, self._pictures_digest(folder)] for folder in self._folders],
            }
        )

    def version(self) -> str:
        """See `Source`."""
        return ""

    def documents(self, report: SourceReport) -> Iterator[Document]:
        """See `Source`. With the context's `image_form` each document has its picture."""
        return limited(self._all(report), self._config, report, self.name)

    def _all(self, report: SourceReport) -> Iterator[Document]:
        caption = RecordFormat(self._config.fields, self._config.format)
        for folder in self._folders:
            form = CaptionForm(self._config.image_field, folder.locate, caption, self._config.min_text_length)
            read = partial(folder.records, form.named())
            yield from captioned(read, form, folder.captions.name, self._context, report)

    def _pictures_digest(self, folder: Folder) -> str:
        """sha256 over the bytes of all pictures that the captions name, in their order."""
        digest = hashlib.sha256()
        for record in folder.records([self._config.image_field], SourceReport(self.name)):
            try:
                with folder.locate(record.get(self._config.image_field)).open("rb") as picture:
                    content = hashlib.file_digest(picture, "sha256").digest()
            except (UnusableRecord, OSError, ValueError):
                content = b"none"
            digest.update(content)
        return digest.hexdigest()

    @cached_property
    def _folders(self) -> Sequence[Folder]:
        found = [self._folder(path) for path in self._config.paths]
        return sorted(found, key=lambda folder: folder.captions.sha256)

    def _folder(self, path: str) -> Folder:
        """Raises: DataError when there is no such folder, or it has no captions file."""
        folder = self._context.base_folder / expanded(path)
        if not is_folder(folder):
            what = "this is no folder" if os.path.lexists(folder) else "there is no such folder"
            hint = "name the folder that holds the pictures and their captions file"
            raise DataError(f"{what}: {folder}", where=self.name, hint=hint)
        names = CAPTION_FILES if self._config.captions is None else (self._config.captions,)
        try:
            file = next((folder / name for name in names if (folder / name).is_file()), None)
        except OSError as error:
            raise DataError(f"the folder cannot be read: {reason_of(error)}", where=str(folder)) from error
        if file is None:
            what = f"no captions file in {folder}: looked for {', '.join(names)}"
            hint = 'each line says of one picture {"file_name": ..., "text": ...}; `captions` names another file'
            raise DataError(what, where=self.name, hint=hint)
        try:
            with file.open("rb") as stream:
                return Folder(folder, InputFile(file, file.name, hashlib.file_digest(stream, "sha256").hexdigest()))
        except OSError as error:
            raise DataError(f"the captions cannot be read: {reason_of(error)}", where=str(file)) from error


def picture_versions() -> list[JsonValue]:
    """The versions that decide the pixels of a picture."""
    return [PICTURE_VERSION, metadata.version("pillow")]
