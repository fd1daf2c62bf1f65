"""Records read as several texts: the source writes each as one text, with a mark between its parts that no text has."""

from collections.abc import Iterator, Sequence

from dreamlm.data_sources.sources import SourceConfig
from dreamlm.data_sources.sources.huggingface import HuggingFace
from dreamlm.data_sources.sources.records import format_fields
from dreamlm.data_sources.sources.source import SourceContext, SourceReport
from dreamlm.data_sources.sources.text import TextFiles

MARK = "\N{SYMBOL FOR RECORD SEPARATOR}"
"""Stands between the parts; a record that has it itself is left out."""


def check_templates(source: SourceConfig, templates: Sequence[str]) -> None:
    """Find the mistakes that no record is needed to see.

    Raises: ValueError when the source has no records or says itself what to read, or a template is malformed.
    """
    if not isinstance(source, HuggingFace.Config | TextFiles.Config) or source.type == "text":
        raise ValueError(f"fields are read from records, and a source of type {source.type!r} has none")
    if source.fields or source.format is not None:
        raise ValueError("the source must leave out fields and format: the templates say what is read")
    for template in templates:
        if MARK in template:
            raise ValueError(f"{template!r} must not hold {MARK}, which stands between the parts")
        format_fields(template)


def parts_of(
    source: SourceConfig, templates: Sequence[str], context: SourceContext, report: SourceReport
) -> Iterator[tuple[list[str], str]]:
    """The filled-in templates of every record, and the name of its input; what is left out is counted in the report.

    Raises: UserMistake when the records lack a field; DataError when the source gives nothing.
    """
    # A mark behind the last part too, because sources trim the ends of a text.
    options = source.model_copy(update={"format": MARK.join([*templates, ""])})
    for document in options.build(context).documents(report):
        *parts, rest = document.text.split(MARK)
        if len(parts) == len(templates) and not rest:
            yield parts, document.input
        else:
            report.drop(f"record: holds {MARK}", document.input)
