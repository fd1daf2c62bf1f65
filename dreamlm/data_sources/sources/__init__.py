"""Where documents come from. One file per kind of source; `SourceConfig` is the union that a preset chooses from."""

import difflib
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, GetJsonSchemaHandler
from pydantic_core import CoreSchema

from dreamlm.data_sources.sources.huggingface import HuggingFace
from dreamlm.data_sources.sources.images import ImageFolders
from dreamlm.data_sources.sources.named import NAMED
from dreamlm.data_sources.sources.pdf import PdfFolder
from dreamlm.data_sources.sources.python_docs import PythonDocs
from dreamlm.data_sources.sources.source import Source, SourceContext, SourceReport
from dreamlm.data_sources.sources.text import TextFiles
from dreamlm.data_sources.sources.unicode_glyphs import UnicodeGlyphs

__all__ = ["SOURCE_NAMES", "Source", "SourceConfig", "SourceContext", "SourceReport", "named_source"]

AnySourceConfig = (
    HuggingFace.Config
    | ImageFolders.Config
    | PdfFolder.Config
    | PythonDocs.Config
    | TextFiles.Config
    | UnicodeGlyphs.Config
)
SHIPPED: dict[str, AnySourceConfig] = {
    "python_docs": PythonDocs.Config(type="python_docs"),
    "unicode_glyphs": UnicodeGlyphs.Config(type="unicode_glyphs"),
}
"""What is there without a network."""

SOURCE_NAMES = tuple(sorted([*NAMED, *SHIPPED]))
"""Words that stand for a whole source."""


def named_source(name: str) -> AnySourceConfig:
    """The source that a single word stands for.

    Raises: ValueError when the word is unknown; its text lists the known ones.
    """
    if name in SHIPPED:
        return SHIPPED[name]
    if name in NAMED:
        return NAMED[name]
    close = difflib.get_close_matches(name, SOURCE_NAMES, n=1, cutoff=0.5)
    guess = f"did you mean {close[0]!r}? " if close else ""
    raise ValueError(
        f"no source is called {name!r}; {guess}names: {', '.join(SOURCE_NAMES)}; anything else needs its fields, "
        'as in {"type": "hf", "dataset": ...} or {"type": "pdf", "paths": ...}'
    )


def _from_word(value: object) -> object:
    """A word is its source; as the type of an object it brings the keys that the object lacks."""
    if isinstance(value, str):
        return named_source(value)
    if isinstance(value, dict) and isinstance(word := value.get("type"), str) and word in NAMED:
        return {**NAMED[word].model_dump(exclude_unset=True), **value, "type": NAMED[word].type}
    return value


class _WordInSchema:
    """Makes the JSON Schema say that a word will do."""

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [{"type": "string", "enum": list(SOURCE_NAMES)}, handler(core_schema)]}


SourceConfig = Annotated[
    Annotated[AnySourceConfig, Field(discriminator="type")],
    BeforeValidator(_from_word),
    _WordInSchema,
]
"""One source of a preset: a word of `SOURCE_NAMES`, or an object whose `type` says which kind."""
