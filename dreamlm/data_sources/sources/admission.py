"""The gate every text passes on its way out of a source: cleaned, long enough, honest text, and within the limits."""

from collections.abc import Iterable, Iterator

from dreamlm.core.errors import DataError
from dreamlm.core.types import Document
from dreamlm.data_sources.cleaning import clean_text, encoding_defect
from dreamlm.data_sources.sources.records import Record, RecordFormat, UnusableRecord
from dreamlm.data_sources.sources.source import SourceOptions, SourceReport


def admitted(
    raw: str, name: str, part: str, min_text_length: int, report: SourceReport, number: int | None = None
) -> Iterator[Document]:
    """The text as a document of the input `name`; when it is none nothing, and the reason is counted.

    `part` is the unit of the reason, such as `record`; its number makes the example in the report exact.
    """
    example = name if number is None else f"{name} {part} {number}"
    defect = encoding_defect(raw)
    if defect is not None:
        report.drop(f"{part}: {defect}", example)
        return
    text = clean_text(raw)
    if len(text) < max(1, min_text_length):
        report.drop(f"{part}: shorter than {max(1, min_text_length)} characters", example)
        return
    yield Document(text, name)


def admitted_records(
    records: Iterable[Record], form: RecordFormat, name: str, min_text_length: int, report: SourceReport
) -> Iterator[Document]:
    """The records as documents; the first one decides whether the format fits at all.

    Raises: UserMistake when the first record lacks a field that the format names.
    """
    for number, record in enumerate(records, start=1):
        if number == 1:
            form.check(record, name)
        try:
            text = form.text_of(record)
        except UnusableRecord as reason:
            report.drop(f"record: {reason}", f"{name} record {number}")
            continue
        yield from admitted(text, name, "record", min_text_length, report, number)


def limited(
    documents: Iterator[Document], options: SourceOptions, report: SourceReport, where: str
) -> Iterator[Document]:
    """The documents, counted, up to the limits of the options.

    Raises: DataError when there is not one document; its text says what was dropped.
    """
    for document in documents:
        report.count(document)
        yield document
        if options.max_documents is not None and report.documents >= options.max_documents:
            return
        if options.max_bytes is not None and report.bytes >= options.max_bytes:
            return
    if report.documents == 0:
        dropped = "; ".join(f"{count} x {reason}" for reason, count in sorted(report.drops.items()))
        inputs = f"{report.inputs} input" + ("" if report.inputs == 1 else "s")
        raise DataError(f"no usable text in {inputs}" + (f" ({dropped})" if dropped else ""), where=where)
