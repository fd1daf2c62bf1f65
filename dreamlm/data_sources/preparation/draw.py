"""Drawing all documents of the sources into spools: counted, without duplicates, failures kept apart by source."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dreamlm.core.errors import AllSourcesFailed, DataError, SourceFailure
from dreamlm.data_sources.preparation.duplicates import SeenDocuments
from dreamlm.data_sources.preparation.spool import Spool, SpoolWriter, digests_of
from dreamlm.data_sources.progress import Progress
from dreamlm.data_sources.sources.source import Source, SourceReport, printable

DUPLICATE = "document: exact duplicate"


@dataclass(frozen=True)
class DrawnSource:
    """What one source gave: a spool, or the reason why there is none."""

    name: str
    report: SourceReport
    spool: Spool | None = None
    failure: str | None = None
    worth_another_try: bool = False
    """Whether the same content may give documents the next time, as when the network was down."""
    version: str = ""
    """See `Source.version`."""


@dataclass
class Drawing:
    """How documents are drawn; `run` does it."""

    folder: Path
    deduplicate: bool
    lowest_hashes: int
    progress: Progress
    check_space: Callable[[], None]
    """Called every `SPACE_INTERVAL_BYTES` of text and pixels; raises OutOfSpace."""
    spooled_bytes: int = field(default=0, init=False)
    """Of text."""
    pixel_bytes: int = field(default=0, init=False)

    SPACE_INTERVAL_BYTES = 32 * 2**20

    def run(self, sources: Sequence[Source], limits: Sequence[int | None]) -> list[DrawnSource]:
        """All documents of each source, or about `limits` bytes of them.

        Raises: AllSourcesFailed; UserMistake from a source whose configuration does not fit its records.
        """
        self.progress.stage("read sources", None)
        with SeenDocuments(self.folder / "seen.sqlite") as seen:
            drawn = [
                self._draw(source, number, limit, seen)
                for number, (source, limit) in enumerate(zip(sources, limits, strict=True))
            ]
        failures = [SourceFailure(source.name, source.failure) for source in drawn if source.failure is not None]
        if len(failures) == len(drawn):
            raise AllSourcesFailed(failures)
        for failure in failures:
            self.progress.notice(f"source {failure.source} failed and is left out: {failure.reason}")
        return drawn

    def _draw(self, source: Source, number: int, limit: int | None, seen: SeenDocuments) -> DrawnSource:
        report = SourceReport(source.name)
        with SpoolWriter(source.name, self.folder / f"{number:03}", self.lowest_hashes) as writer:
            try:
                self._fill(writer, source, number, limit, seen, report)
            except DataError as error:
                writer.discard()
                seen.forget(number)
                return DrawnSource(source.name, report, failure=reason(error), worth_another_try=True)
            spool = writer.finish()
        if spool.documents == 0:
            failure = "every document was already there, from an earlier source"
            return DrawnSource(source.name, report, failure=failure)
        return DrawnSource(source.name, report, spool, version=source.version())

    def _fill(
        self,
        writer: SpoolWriter,
        source: Source,
        number: int,
        limit: int | None,
        seen: SeenDocuments,
        report: SourceReport,
    ) -> None:
        kept_bytes = 0
        for document in source.documents(report):
            text = document.text.encode()
            digests = digests_of(text, document.picture)
            self.progress.advance(len(text))
            if self.deduplicate and not seen.add(digests.whole, number):
                report.drop(DUPLICATE, document.input)
                continue
            writer.add(document, text, digests.side)
            kept_bytes += len(text)
            self._count(len(text), 0 if document.picture is None else document.picture.nbytes)
            if limit is not None and kept_bytes >= limit:
                return

    def _count(self, text_bytes: int, pixel_bytes: int) -> None:
        before = (self.spooled_bytes + self.pixel_bytes) // self.SPACE_INTERVAL_BYTES
        self.spooled_bytes += text_bytes
        self.pixel_bytes += pixel_bytes
        if (self.spooled_bytes + self.pixel_bytes) // self.SPACE_INTERVAL_BYTES != before:
            self.check_space()


def reason(error: DataError) -> str:
    """What happened, where, and what helps, in one line."""
    parts = [f"{error.what} ({error.where})" if error.where else error.what]
    if error.valid:
        parts.append(f"valid: {', '.join(error.valid)}")
    return printable("; ".join([*parts, error.hint] if error.hint else parts))
