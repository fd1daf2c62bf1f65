"""Local files of text: plain text, JSON Lines or Parquet, each also compressed with gzip or zstd."""

import codecs
import io
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Literal, Self, final

from pydantic import Field, model_validator

from dreamlm.core.types import Document
from dreamlm.data_sources.cleaning import CLEANING_VERSION
from dreamlm.data_sources.retry import reason_of
from dreamlm.data_sources.sources.admission import admitted, admitted_records, limited
from dreamlm.data_sources.sources.files import InputFile, Listing, list_files, name_of_path, open_bytes, plain_suffix
from dreamlm.data_sources.sources.pieces import cut
from dreamlm.data_sources.sources.record_files import RecordOptions, read_records
from dreamlm.data_sources.sources.records import RecordFormat, check_format
from dreamlm.data_sources.sources.source import (
    Paths,
    Source,
    SourceContext,
    SourceOptions,
    SourceReport,
    Strings,
    fingerprint_of,
)

SUFFIXES = {
    "text": (".txt", ".text", ".md", ".rst"),
    "jsonl": (".jsonl", ".ndjson", ".json"),
    "parquet": (".parquet",),
}
BLOCK_BYTES = 1 << 18
SHORTEST_SHARE = 0.5


@final
class TextFiles(Source):
    """Documents of local files, in the order of the files' content hashes, each file from its beginning to its end."""

    class Config(SourceOptions):
        """Local text, JSON Lines or Parquet files."""

        type: Literal["text", "jsonl", "parquet"]
        """`text`: a file is a document, a long one several; `jsonl` and `parquet`: a record is a document."""
        paths: Paths
        """Files, folders (searched with their subfolders) or glob patterns; a single string will do."""
        fields: Strings = ()
        """Fields of a record to read; joined by a line break when there is no format. Absent: `text`."""
        format: str | None = None
        """How a record becomes text, such as `Q: {question}\\nA: {answer}`."""
        records_path: str | None = None
        """For JSON files that are one object: dotted keys that lead to the records, such as `data.paragraphs.qas`."""
        document_characters: int = Field(default=20_000, ge=100)
        """Text files longer than this are cut at paragraph ends into documents of half to all of this length."""

        @model_validator(mode="after")
        def _consistent(self) -> Self:
            check_format(self.fields, self.format)
            if self.type == "text" and (self.fields or self.format is not None or self.records_path is not None):
                raise ValueError("fields, format and records_path are for type jsonl and parquet: text has no records")
            if self.type == "text":
                _require_text(self.paths)
            return self

        def default_name(self) -> str:
            """The last part of the first path, without suffixes."""
            return name_of_path(self.paths[0], self.type)

        def build(self, context: SourceContext) -> "TextFiles":
            """The live source."""
            return TextFiles(self, context)

    def __init__(self, config: Config, context: SourceContext) -> None:
        self.name = config.source_name
        self.bounded = True
        self._config = config
        self._context = context

    def fingerprint(self) -> str:
        """See `Source`: the files' hashes, the type and every option that shapes the text."""
        options = self._config.model_dump(mode="json", exclude={"name", "paths"})
        return fingerprint_of(
            {
                "options": options,
                "min_text_length": self._context.min_text_length,
                "cleaning": CLEANING_VERSION,
                "contents": [file.content for file in self._listing.files],
            }
        )

    def version(self) -> str:
        """See `Source`."""
        return ""

    def documents(self, report: SourceReport) -> Iterator[Document]:
        """See `Source`."""
        return limited(self._all(report), self._config, report, self.name)

    def _all(self, report: SourceReport) -> Iterator[Document]:
        self._listing.report_problems(report)
        form = RecordFormat(self._config.fields, self._config.format)
        for file in self._listing.files:
            if self._config.type == "text":
                yield from self._pieces(file, report)
            else:
                yield from self._records(file, form, report)

    def _pieces(self, file: InputFile, report: SourceReport) -> Iterator[Document]:
        report.inputs += 1
        longest = self._config.document_characters
        empty, learned, blocks = True, False, _Blocks(file)
        try:
            pieces = cut(blocks, int(longest * SHORTEST_SHARE), longest, at_paragraphs=True)
            for piece in pieces:
                empty = False
                for document in admitted(piece, file.name, "document", self._context.min_text_length, report):
                    learned = True
                    yield document
            if blocks.broken_at is not None:
                reason = "file: cut off where it is not in UTF-8" if learned else "file: not in UTF-8"
                report.drop(reason, f"{file.name} (at byte {blocks.broken_at:,})")
            elif empty:
                report.drop("file: empty", file.name)
        except (OSError, EOFError, ValueError) as error:
            report.drop("file: damaged", f"{file.name} ({reason_of(error)})")

    def _records(self, file: InputFile, form: RecordFormat, report: SourceReport) -> Iterator[Document]:
        options = RecordOptions(self._config.records_path, wanted=tuple(form.named()))
        records = read_records(file, self._config.type, options, report)
        yield from admitted_records(records, form, file.name, self._context.min_text_length, report)

    @cached_property
    def _listing(self) -> Listing:
        plain = SUFFIXES[self._config.type]
        return list_files(self._config.paths, self._context.base_folder, plain, self.name)


def _require_text(paths: Sequence[str]) -> None:
    """Raises: ValueError for a path that says that it leads to records: read as text, their syntax would be learned."""
    for path in paths:
        for kind in ("jsonl", "parquet"):
            if plain_suffix(path) in SUFFIXES[kind]:
                raise ValueError(f'{path} holds records: the type "{kind}" reads them')


class _Blocks:
    """The text of a file in blocks of about `BLOCK_BYTES`, up to where it is not in UTF-8.

    A byte order mark at the start is no text.
    """

    def __init__(self, file: InputFile) -> None:
        self._file = file
        self.broken_at: int | None = None
        """The first byte that is no UTF-8, from 0, in the file as it is without compression; known at the end."""

    def __iter__(self) -> Iterator[str]:
        decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder("utf-8")(), translate=True)
        done, begins, ends = 0, True, False
        with open_bytes(self._file.path) as stream:
            while not ends:
                block = stream.read(BLOCK_BYTES)
                ends = not block
                waiting = decoder.getstate()[0]  # the first bytes of a character that the last block ended inside of
                try:
                    text = decoder.decode(block, final=ends)
                except UnicodeDecodeError as error:
                    text, ends = (waiting + block)[: error.start].decode(), True
                    self.broken_at = done - len(waiting) + error.start
                done += len(block)
                yield text.removeprefix("\ufeff") if begins else text
                begins = begins and not text
