"""A folder of PDFs as documents of prose.

1. Find the files, order them by content.  2. Read each in a process with limits (`pdf_process.py`), or take what the
cache holds.  3. Drop bad and repeated pages, join broken lines, cut pieces at sentence ends (`pdf_text.py`).
4. Judge every piece. Whatever is left out at any step is counted by reason.
"""

import queue
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Literal, Self, final

from pydantic import Field, model_validator

from dreamlm.core.types import Document
from dreamlm.data_sources.cleaning import CLEANING_VERSION, extraction_defect
from dreamlm.data_sources.sources.admission import admitted, limited
from dreamlm.data_sources.sources.ahead import in_order
from dreamlm.data_sources.sources.files import InputFile, Listing, list_files
from dreamlm.data_sources.sources.pdf_cache import ExtractionCache, reader_versions
from dreamlm.data_sources.sources.pdf_process import Extraction, PdfProcess, ReadLimits
from dreamlm.data_sources.sources.pdf_text import Dropped, prose_pieces
from dreamlm.data_sources.sources.source import (
    Paths,
    Source,
    SourceContext,
    SourceOptions,
    SourceReport,
    fingerprint_of,
)

PIECES_VERSION = 1
"""Raise it when `pdf_text.py` or `pieces.py` gives another result."""
FILES_AHEAD = 2
"""Files per worker whose text may wait in memory for its turn."""


@final
class PdfFolder(Source):
    """Pieces of PDFs in the order of the files' content hashes; the same for any number of workers."""

    class Config(SourceOptions):
        """PDF files, searched for in folders and their subfolders."""

        type: Literal["pdf"]
        """PDF files."""
        paths: Paths
        """Files, folders (searched with their subfolders) or glob patterns; a single string will do."""
        piece_characters: tuple[int, int] = (3000, 5000)
        """Shortest and longest piece of a document; cut at the end of a sentence."""
        time_limit_seconds: float = Field(default=60.0, ge=1, le=3600)
        """Processor time one file may take; slower files are skipped."""
        memory_limit_megabytes: int = Field(default=1024, ge=256, le=65536)
        """Address space (MiB) of a reading process; files that need more are skipped."""

        @model_validator(mode="after")
        def _ordered(self) -> Self:
            shortest, longest = self.piece_characters
            if not 100 <= shortest <= longest <= 1_000_000:
                raise ValueError("piece_characters needs 100 <= shortest <= longest <= 1000000")
            return self

        def default_name(self) -> str:
            """Always `pdf`."""
            return "pdf"

        def build(self, context: SourceContext) -> "PdfFolder":
            """The live source."""
            return PdfFolder(self, context)

    def __init__(self, config: Config, context: SourceContext) -> None:
        self.name = config.source_name
        self.bounded = True
        self._config = config
        self._context = context
        self._limits = ReadLimits(config.time_limit_seconds, config.memory_limit_megabytes << 20)
        self._cache = ExtractionCache(context.cache_folder / "pdf", self._limits)

    def fingerprint(self) -> str:
        """See `Source`: the files' hashes, the options, and the versions of everything that touches the text."""
        return fingerprint_of(
            {
                "options": self._config.model_dump(mode="json", exclude={"name", "paths"}),
                "min_text_length": self._context.min_text_length,
                "versions": [*reader_versions(), CLEANING_VERSION, PIECES_VERSION],
                "contents": [file.sha256 for file in self._listing.files],
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
        for file, extraction in self._extractions():
            report.inputs += 1
            yield from self._pieces(file.name, extraction, report)

    def _pieces(self, name: str, extraction: Extraction, report: SourceReport) -> Iterator[Document]:
        if extraction.failure:
            detail = f" ({extraction.detail})" if extraction.detail else ""
            report.drop(f"file: {extraction.failure}", name + detail)
            return
        for error in extraction.page_errors:
            report.drop("page: cannot be read", f"{name} {error}")
        if not any(page and page.strip() for page in extraction.pages):
            report.drop(_reason_without_text(extraction), name)
            return
        for number, part in enumerate(prose_pieces(extraction.pages, *self._config.piece_characters), start=1):
            if isinstance(part, Dropped):
                report.drop(part.reason, f"{name} page {part.number}")
                continue
            defect = extraction_defect(part)
            if defect is not None:
                report.drop(f"piece: {defect}", f"{name} piece {number}")
                continue
            yield from admitted(part, name, "piece", self._context.min_text_length, report, number)

    def _extractions(self) -> Iterator[tuple[InputFile, Extraction]]:
        """Every file with what it held, in order, while up to `workers` processes read ahead."""
        workers = max(1, self._context.workers)
        processes: queue.SimpleQueue[PdfProcess] = queue.SimpleQueue()
        started = [PdfProcess(self._limits) for _ in range(workers)]
        for process in started:
            processes.put(process)

        def extract(file: InputFile) -> Extraction:
            kept = self._cache.get(file.sha256)
            if kept is not None:
                return kept
            process = processes.get()
            try:
                extraction = process.read(file.path)
            finally:
                processes.put(process)
            if not extraction.crashed:
                self._cache.put(file.sha256, extraction)
            return extraction

        pool = ThreadPoolExecutor(workers, thread_name_prefix="pdf")
        try:
            yield from in_order(pool, extract, self._listing.files, workers * FILES_AHEAD)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in started:
                process.close()
            pool.shutdown(wait=True)

    @cached_property
    def _listing(self) -> Listing:
        return list_files(self._config.paths, self._context.base_folder, (".pdf",), self.name)


def _reason_without_text(extraction: Extraction) -> str:
    if not extraction.pages:
        return "file: no pages"
    if len(extraction.page_errors) == len(extraction.pages):
        return "file: no page can be read"
    return "file: image-only" if extraction.images else "file: no text"
