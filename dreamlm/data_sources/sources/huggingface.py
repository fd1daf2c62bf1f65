"""Data sets in the forms that the `datasets` library knows: on the hub, in a local folder, or as plain files.

The hub and folders are streamed through `datasets`, which then keeps no copy that could go stale: its cache has handed
out the rows of another folder with the same name. Plain local files are read by `record_files.py`, which also takes
JSON arrays and nested JSON, tables without a header line and JSON Lines under any name.

With `image_field` the records are captions of the pictures that they hold. Those of the hub are not kept on the disk: a
preparation that was killed reads them again.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property, partial
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal, Self, final

from pydantic import (
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    TypeAdapter,
    WithJsonSchema,
    model_serializer,
    model_validator,
)

from dreamlm.core.errors import DataError
from dreamlm.core.home import expanded
from dreamlm.core.types import Document
from dreamlm.data_sources.cleaning import CLEANING_VERSION
from dreamlm.data_sources.retry import RetryPolicy, is_network_failure, reason_of
from dreamlm.data_sources.sources.admission import admitted_records, limited
from dreamlm.data_sources.sources.captioned import CaptionForm, captioned
from dreamlm.data_sources.sources.files import Listing, is_folder, list_files, name_of_path
from dreamlm.data_sources.sources.hub_stream import (
    DatasetAddress,
    ResumableStream,
    commit_of,
    open_hub_stream,
    open_picture_stream,
    resumed_records,
)
from dreamlm.data_sources.sources.images import picture_versions
from dreamlm.data_sources.sources.record_files import RecordOptions, read_records
from dreamlm.data_sources.sources.record_shelf import shelf_in
from dreamlm.data_sources.sources.records import USED_PART_VERSION, Record, RecordFormat, UnusableRecord, check_format
from dreamlm.data_sources.sources.source import (
    Source,
    SourceContext,
    SourceOptions,
    SourceReport,
    Strings,
    fingerprint_of,
)

BUILDERS = ("csv", "json", "parquet", "text")

_FilesInSchema = WithJsonSchema(
    TypeAdapter(str | tuple[str, ...] | dict[str, str | tuple[str, ...]]).json_schema(), mode="validation"
)
"""What may be written for `data_files`."""


@final
class HuggingFace(Source):
    """Records of a data set as documents, in the data set's own order; local files in the order of their content."""

    class Config(SourceOptions):
        """A data set of the Hugging Face hub, of a local folder, or of local files."""

        type: Literal["hf"]
        """Hugging Face `datasets`."""
        dataset: str = Field(min_length=1)
        """A hub id such as `allenai/c4`, a local folder, or `parquet`, `json`, `csv` or `text` with `data_files`."""
        config_name: str | None = None
        """Configuration of the data set, such as `en`."""
        split: str = "train"
        """Part of the data set."""
        revision: str | None = None
        """Branch, tag or commit on the hub; a commit makes the corpus repeatable for ever. Absent: `main`."""
        data_files: Annotated[dict[str, tuple[str, ...]], _FilesInSchema] = Field(default_factory=dict)
        """Files or patterns by split; a string or a list stands for the files of `split`."""
        fields: Strings = ()
        """Fields of a record to read; joined by a line break when there is no format. Absent: `text`."""
        format: str | None = None
        """How a record becomes text, such as `Q: {query}\\nA: {answer}`."""
        image_field: str | None = Field(default=None, min_length=1)
        """Field that holds a picture, such as `image`; the text is its caption then. The model needs `model.vision`."""
        min_text_length: int | None = Field(default=None, ge=1)
        """Characters; shorter texts are dropped. Absent: `data.min_text_length`, and 1 for captions."""
        records_path: str | None = None
        """For local JSON that is one object: dotted keys that lead to the records, such as `data.paragraphs.qas`."""
        column_names: Strings = ()
        """For local CSV files without a header line: the names of the columns."""
        delimiter: str = Field(default=",", min_length=1, max_length=1)
        """For local CSV files: what stands between two values; a tab for TSV."""

        @model_validator(mode="before")
        @classmethod
        def _data_files_of_the_split(cls, values: object) -> object:
            if not isinstance(values, dict) or values.get("data_files") is None:
                return values
            files = values["data_files"]
            by_split = files if isinstance(files, dict) else {values.get("split", "train"): files}
            lists = {split: (names,) if isinstance(names, str) else names for split, names in by_split.items()}
            return {**values, "data_files": lists}

        @model_validator(mode="after")
        def _consistent(self) -> Self:
            check_format(self.fields, self.format)
            if self.data_files and self.split not in self.data_files:
                raise ValueError(f"data_files has no split {self.split!r}, only {', '.join(sorted(self.data_files))}")
            if self.dataset in BUILDERS and not self.data_files.get(self.split):
                raise ValueError(f"dataset {self.dataset!r} reads files: say with data_files which ones")
            if self.records_path is not None and self.dataset != "json":
                raise ValueError('records_path is for dataset "json" with local data_files')
            if (self.column_names or self.delimiter != ",") and self.dataset != "csv":
                raise ValueError('column_names and delimiter are for dataset "csv" with local data_files')
            return self

        @model_serializer(mode="wrap")
        def _without_unused(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
            """Younger options are named where they are used: corpora made before them keep their keys."""
            younger = ("image_field", "min_text_length")
            return {name: value for name, value in dump(self).items() if value is not None or name not in younger}

        @property
        def has_pictures(self) -> bool:
            """With `image_field`."""
            return self.image_field is not None

        def default_name(self) -> str:
            """The last part of the id or folder; for plain files that of the first file, without suffixes."""
            if self.dataset in BUILDERS:
                return name_of_path(self.data_files[self.split][0], self.dataset)
            return self.dataset.rstrip("/").rsplit("/", 1)[-1]

        def build(self, context: SourceContext) -> "HuggingFace":
            """The live source."""
            return HuggingFace(self, context, RetryPolicy(), commit_of)

    def __init__(
        self, config: Config, context: SourceContext, policy: RetryPolicy, resolve: Callable[[str, str | None], str]
    ) -> None:
        """`resolve`: the commit of a data set's revision."""
        self.name = config.source_name
        self._config = config
        self._context = context
        usual = 1 if config.has_pictures else context.min_text_length
        self._min_text_length = config.min_text_length or usual
        self._policy = policy
        self._resolve = resolve
        self._data_files = config.data_files.get(config.split, ())
        self._folder = context.base_folder / expanded(config.dataset)
        remote = any("://" in name for name in self._data_files)
        self._from_files = config.dataset in BUILDERS and not remote
        self._from_folder = not self._from_files and config.dataset not in BUILDERS and is_folder(self._folder)
        self._on_hub = not self._from_folder and config.dataset not in BUILDERS
        self.bounded = self._from_files or self._from_folder

    def fingerprint(self) -> str:
        """See `Source`. Of local files the content counts; of the hub the id, revision and split; see `version`.

        In a data set folder the names of the files count too: they decide which rows belong to which split.
        """
        local = set[str]()
        if self.bounded:
            local = {"dataset", "data_files"} if self._from_files else {"dataset"}
        parts: dict[str, JsonValue] = {
            "options": self._config.model_dump(mode="json", exclude={"name", *local}),
            "builder": self._config.dataset if self._from_files else None,
            "min_text_length": self._min_text_length,
            "cleaning": CLEANING_VERSION,
            "contents": [file.content for file in self._listing.files] if self.bounded else [],
            "names": self._names_in_folder() if self._from_folder else [],
        }
        if self._config.has_pictures:
            parts["pictures"] = picture_versions()
        return fingerprint_of(parts)

    def version(self) -> str:
        """See `Source`: the commit of a data set of the hub. Asks the hub once, unless the revision is a commit."""
        return self._asked(lambda: self._commit) if self._on_hub else ""

    def documents(self, report: SourceReport) -> Iterator[Document]:
        """See `Source`."""
        form = RecordFormat(self._config.fields, self._config.format)
        read = self._of_files(form, report) if self._from_files else self._of_stream(form, report)
        return limited(read, self._config, report, self.name)

    def _of_files(self, form: RecordFormat, report: SourceReport) -> Iterator[Document]:
        self._listing.report_problems(report)
        config = self._config
        wanted = form.named() if config.image_field is None else self._captions(form, config.image_field).named()
        options = RecordOptions(config.records_path, config.column_names, config.delimiter, tuple(wanted))
        for file in self._listing.files:
            read = partial(read_records, file, config.dataset, options)
            yield from self._admitted(read, form, file.name, report)

    def _of_stream(self, form: RecordFormat, report: SourceReport) -> Iterator[Document]:
        address = DatasetAddress(
            dataset=str(self._folder) if self._from_folder else self._config.dataset,
            config_name=self._config.config_name,
            split=self._config.split,
            revision=self._config.revision,
            data_files=self._data_files,
            on_hub=self._on_hub,
        )
        what = f"{self._folder.name}/{self._config.split}" if self._from_folder else str(address)
        notice = self._context.on_notice
        report.inputs += 1
        if self._on_hub:
            commit = self._asked(lambda: self._policy.call(lambda: self._commit, what, notice))
            address = replace(address, revision=commit)
        if self._on_hub and not self._config.has_pictures:
            yield from self._admitted(lambda _: self._shelved(address, form, what), form, what, report)
            return
        read = resumed_records(lambda: self._open(address), what, self._policy, notice)
        yield from self._admitted(lambda _: (record for record, _ in read), form, what, report)

    def _open(self, address: DatasetAddress) -> ResumableStream:
        field = self._config.image_field
        return open_hub_stream(address) if field is None else open_picture_stream(address, field)

    def _shelved(self, address: DatasetAddress, form: RecordFormat, what: str) -> Iterator[Record]:
        """The records of a commit on the hub; those that an earlier preparation read come from the disk.

        They come first, so a field that the first record of the stream decided on stays decided when it goes on.
        """
        notice = self._context.on_notice
        with shelf_in(self._context.cache_folder / "hub" / _shelf_key(address, form)) as shelf:
            mark = shelf.mark if shelf else None
            rest = resumed_records(lambda: open_hub_stream(address), what, self._policy, notice, mark)
            if shelf is None:
                yield from (record for record, _ in rest)
                return
            if shelf.count:
                notice(f"{what}: {shelf.count:,} records were read before; the stream goes on after them")
            yield from shelf.records()
            yield from shelf.keep(rest, form.used_part, notice)

    def _asked(self, resolve: Callable[[], str]) -> str:
        try:
            return resolve()
        except Exception as error:
            if not is_network_failure(error):
                raise
            raise DataError(f"no connection: {reason_of(error)}", where=self._config.dataset) from error

    @cached_property
    def _commit(self) -> str:
        return self._resolve(self._config.dataset, self._config.revision)

    def _admitted(
        self, read: Callable[[SourceReport], Iterator[Record]], form: RecordFormat, name: str, report: SourceReport
    ) -> Iterator[Document]:
        if self._config.image_field is None:
            return admitted_records(read(report), form, name, self._min_text_length, report)
        return captioned(read, self._captions(form, self._config.image_field), name, self._context, report)

    def _captions(self, form: RecordFormat, image_field: str) -> CaptionForm:
        return CaptionForm(image_field, self._locate, form, self._min_text_length)

    def _locate(self, value: Any) -> Path | bytes:
        """The picture in a record's field.  Raises: UnusableRecord."""
        content = value.get("bytes") if isinstance(value, dict) else value
        if isinstance(content, bytes):
            return content
        path = value.get("path") if isinstance(value, dict) else None
        if self._from_folder and isinstance(path, str) and _is_below(path, self._folder):
            return Path(path)
        raise UnusableRecord(f"field {self._config.image_field} holds no picture")

    def _names_in_folder(self) -> list[JsonValue]:
        return [f"{file.name} {file.sha256}" for file in (*self._listing.files, *self._listing.repeated)]

    @cached_property
    def _listing(self) -> Listing:
        paths = self._data_files if self._from_files else (str(self._folder),)
        return list_files(paths, self._context.base_folder, None, self.name)


def _is_below(path: str, folder: Path) -> bool:
    """As it is written: the links of a data set folder may lead wherever who made it keeps the content."""
    written = Path(os.path.normpath(Path(path).absolute()))
    return any(written.is_relative_to(place) for place in (os.path.normpath(folder.absolute()), folder.resolve()))


def _shelf_key(address: DatasetAddress, form: RecordFormat) -> str:
    """What decides the records on a shelf, and what a position among them means."""
    version = metadata.version("datasets")
    return fingerprint_of([repr(address), list(form.named()), version, USED_PART_VERSION])[:32]
