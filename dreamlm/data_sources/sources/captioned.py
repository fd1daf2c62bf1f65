"""Records of a picture and what is said of it, as documents: the caption is the text, the picture stands before it."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dreamlm.core.errors import UserMistake
from dreamlm.core.types import Document
from dreamlm.data_sources.images.picture import UnusablePicture, open_picture
from dreamlm.data_sources.sources.admission import admitted
from dreamlm.data_sources.sources.ahead import in_order
from dreamlm.data_sources.sources.records import FIELDS_SHOWN, Record, RecordFormat, UnusableRecord
from dreamlm.data_sources.sources.source import SourceContext, SourceReport

PICTURES_AHEAD = 4
"""Pictures per worker that may wait in memory for their turn."""


@dataclass(frozen=True)
class CaptionForm:
    """How a record is read."""

    image_field: str
    """Names the picture, or holds it."""
    locate: Callable[[Any], Path | bytes]
    """Where the picture is, given the field's value.  Raises: UnusableRecord when it is nowhere."""
    caption: RecordFormat
    """How the other fields become the caption."""
    min_text_length: int
    """Characters of a caption."""

    def named(self) -> Sequence[str]:
        """The fields that are read; empty when those of the caption are found in the records themselves."""
        caption = self.caption.named()
        return [self.image_field, *caption] if caption else []

    def check(self, record: Record, where: str) -> None:
        """Raises: UserMistake when the first record lacks a field, naming those that it has."""
        if self.image_field not in record:
            raise UserMistake(
                f"the records have no field {self.image_field!r}",
                where=where,
                valid=[str(name) for name in record][:FIELDS_SHOWN],
                hint="say with `image_field` which field names or holds the picture",
            )
        self.caption.check(self._others(record), where)

    def read(self, record: Record) -> tuple[str, Path | bytes]:
        """The caption, not cleaned yet, and where its picture is.  Raises: UnusableRecord."""
        text = self.caption.text_of(self._others(record))
        return text, self.locate(record.get(self.image_field))

    def _others(self, record: Record) -> Record:
        return {name: value for name, value in record.items() if name != self.image_field}


def captioned(
    read: Callable[[SourceReport], Iterable[Record]],
    form: CaptionForm,
    name: str,
    context: SourceContext,
    report: SourceReport,
) -> Iterator[Document]:
    """The records of the input `name` as documents, in their order; those that cannot be used are counted.

    `read` gives the records, and counts in a report what it leaves out.

    A document is called by its picture's file, where it has one. Without `context.image_form` pictures stay unread.
    Raises: UserMistake when the first record lacks a field.
    """
    if context.image_form is None:
        yield from (document for document, _ in _found(read(report), form, name, report))
        return
    ahead = SourceReport(report.source)
    found = ((*one, ahead.moved()) for one in _found(read(ahead), form, name, ahead))
    yield from _with_pictures(found, context.image_form.size, context.workers, report)
    report.add(ahead)


def _found(
    records: Iterable[Record], form: CaptionForm, name: str, report: SourceReport
) -> Iterator[tuple[Document, Path | bytes]]:
    """The captions as documents without pictures, and where those are."""
    for number, record in enumerate(records, start=1):
        if number == 1:
            form.check(record, name)
        try:
            text, picture = form.read(record)
        except UnusableRecord as reason:
            report.drop(f"record: {reason}", f"{name} record {number}")
            continue
        file = record[form.image_field]
        for document in admitted(text, name, "caption", form.min_text_length, report, number):
            yield replace(document, input=file if isinstance(file, str) else name), picture


def _with_pictures(
    found: Iterable[tuple[Document, Path | bytes, SourceReport]], size: int, workers: int, report: SourceReport
) -> Iterator[Document]:
    """The documents with their pictures, which up to `workers` threads open.

    What was left out before a document is counted when it is its turn: how far ahead is read changes no report.
    """

    def read(one: tuple[Document, Path | bytes, SourceReport]) -> npt.NDArray[np.uint8] | UnusablePicture:
        try:
            return open_picture(one[1], size)
        except UnusablePicture as error:
            return error

    pool = ThreadPoolExecutor(workers, thread_name_prefix="pictures")
    try:
        for (document, _, left_out), picture in in_order(pool, read, found, workers * PICTURES_AHEAD):
            report.add(left_out)
            report.inputs += 1
            if isinstance(picture, UnusablePicture):
                detail = f" ({picture.detail})" if picture.detail else ""
                report.drop(f"picture: {picture.reason}", document.input + detail)
            else:
                yield replace(document, picture=picture)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
