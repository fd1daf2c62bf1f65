"""The contract of a data source: it names itself, fingerprints its content and yields cleaned documents in one order.

Two kinds of failure leave a source. `UserMistake`: the request can never work as written (a format names a field that
the records lack); it ends the command. `DataError`: this source gives nothing (no network, no readable file); the
caller may go on with the other sources. A single bad input is neither: it is counted in the `SourceReport` by reason.
"""

import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Self, TypeAlias

from pydantic import BeforeValidator, Field, JsonValue, field_validator

from dreamlm.core.config import ConfigModel
from dreamlm.core.types import Document, ImageForm

EXAMPLES_PER_REASON = 100


@dataclass(frozen=True)
class SourceContext:
    """What a source needs to know about its surroundings."""

    base_folder: Path
    """Relative paths of a configuration start here."""
    cache_folder: Path
    """Extraction results live here, keyed by content; deleting it costs time only."""
    workers: int = 1
    """Processes a source may run at once; never changes what it yields."""
    min_text_length: int = 1
    """Characters; shorter documents are dropped and counted."""
    image_form: ImageForm | None = None
    """The form in which pictures are wanted; None when only their captions are: then no picture is opened."""
    on_notice: Callable[[str], None] = lambda message: None
    """Receives one plain sentence when something takes longer than usual, such as a retry."""


@dataclass
class SourceReport:
    """What became of the inputs of one source; filled while its documents are drawn."""

    source: str
    inputs: int = 0
    """Files read; 1 for a stream."""
    documents: int = 0
    bytes: int = 0
    """UTF-8 length of all documents."""
    drops: dict[str, int] = field(default_factory=dict)
    """How often something was left out, by reason; a reason starts with its unit: `file: encrypted`."""
    examples: dict[str, list[str]] = field(default_factory=dict)
    """The first inputs of each reason, at most `EXAMPLES_PER_REASON`."""

    def drop(self, reason: str, name: str, count: int = 1) -> None:
        """Count what was left out; the input's name becomes an example of the reason. Both are made printable."""
        reason, name = printable(reason), printable(name)
        self.drops[reason] = self.drops.get(reason, 0) + count
        names = self.examples.setdefault(reason, [])
        if len(names) < EXAMPLES_PER_REASON and name not in names[-1:]:
            names.append(name)

    def add(self, other: Self) -> None:
        """Count what another report of the same source counted."""
        self.inputs += other.inputs
        self.documents += other.documents
        self.bytes += other.bytes
        for reason, count in other.drops.items():
            self.drops[reason] = self.drops.get(reason, 0) + count
            names = self.examples.setdefault(reason, [])
            new = [name for name in other.examples[reason] if name not in names[-1:]]
            names += new[: EXAMPLES_PER_REASON - len(names)]

    def moved(self) -> "SourceReport":
        """What was counted until now, which is not counted here any longer."""
        before = replace(self)
        self.inputs = self.documents = self.bytes = 0
        self.drops, self.examples = {}, {}
        return before

    def count(self, document: Document) -> None:
        """Count a document on its way out."""
        self.documents += 1
        self.bytes += len(document.text.encode())

    def as_json(self) -> dict[str, JsonValue]:
        """The report as it stands in a manifest; reasons sorted."""
        return {
            "source": self.source,
            "inputs": self.inputs,
            "documents": self.documents,
            "bytes": self.bytes,
            "drops": {reason: self.drops[reason] for reason in sorted(self.drops)},
            "examples": {reason: list[JsonValue](self.examples[reason]) for reason in sorted(self.examples)},
        }


class Source(ABC):
    """Documents from one place."""

    name: str
    """Unique within a corpus and safe as a file name, such as `natural-questions`."""
    bounded: bool
    """False when the source can be longer than anyone wants to store, as a hub stream is."""

    @abstractmethod
    def fingerprint(self) -> str:
        """64 hex digits that change when the documents may change: content, as what it is read, and options, never
        paths or dates.

        Raises: DataError when the inputs cannot be read.  Cost: reads every local file once.
        """

    @abstractmethod
    def version(self) -> str:
        """Which version is read of what others may change, such as a commit; empty where `fingerprint` says it all.

        Once known it stays the same for this object, and `documents` reads exactly it.
        Raises: DataError when it cannot be found out now.
        """

    @abstractmethod
    def documents(self, report: SourceReport) -> Iterator[Document]:
        """Cleaned documents of at least `min_text_length` characters, always in the same order.

        Exact duplicates may occur.  Raises: DataError when the source yields no document, UserMistake when the
        configuration does not fit the records.
        """


def _as_list(value: object) -> object:
    return (value,) if isinstance(value, str) else value


Strings: TypeAlias = Annotated[tuple[str, ...], BeforeValidator(_as_list, json_schema_input_type=str | tuple[str, ...])]
"""A list of strings; a single string will do."""
Paths: TypeAlias = Annotated[
    tuple[str, ...],
    Field(min_length=1),
    BeforeValidator(_as_list, json_schema_input_type=str | Annotated[tuple[str, ...], Field(min_length=1)]),
]
"""At least one file, folder (searched with its subfolders) or glob pattern; a single string will do."""


class SourceOptions(ConfigModel, ABC):
    """What the configuration of every source has in common."""

    name: str | None = Field(default=None, max_length=60, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the source in reports, shards and `source_weights`; made from the content's address when absent."""
    max_documents: int | None = Field(default=None, ge=1)
    """Stop after this many documents."""
    max_bytes: int | None = Field(default=None, ge=1)
    """Stop once this many bytes of text were yielded."""

    @property
    def source_name(self) -> str:
        """The given name, or the default one made safe for file names."""
        return self.name or file_name_safe(self.default_name())

    @property
    def has_pictures(self) -> bool:
        """Whether every document of the source is the caption of a picture; else none is."""
        return False

    @abstractmethod
    def default_name(self) -> str:
        """The name when none is given."""

    @abstractmethod
    def build(self, context: SourceContext) -> Source:
        """The live source. Opens nothing yet."""

    @field_validator("name")
    @classmethod
    def _no_trailing_dot(cls, name: str | None) -> str | None:
        if name is not None and name.endswith("."):
            raise ValueError("a name must not end with a dot")
        return name


def fingerprint_of(parts: JsonValue) -> str:
    """sha256 of the canonical JSON of the parts, in hex."""
    canonical = json.dumps(parts, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def printable(text: str) -> str:
    """The text with a lone surrogate, as a file name that is not in UTF-8 has it, written as its escape sequence."""
    return text.encode("utf-8", "backslashreplace").decode()


def file_name_safe(text: str) -> str:
    """The text in the characters that every file system and every shard name accepts; at most 60 of them."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")[:60].rstrip("-._") or "source"
