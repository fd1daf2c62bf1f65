"""Claims about what a preset may write as a source."""

import re

import pytest
from pydantic import TypeAdapter, ValidationError

from dreamlm.data_sources.sources import SOURCE_NAMES, SourceConfig
from dreamlm.data_sources.sources.huggingface import HuggingFace
from dreamlm.data_sources.sources.named import NAMED
from dreamlm.data_sources.sources.python_docs import PythonDocs
from dreamlm.data_sources.sources.source import SourceReport, file_name_safe

SOURCES = TypeAdapter(list[SourceConfig])


def test_the_sources_of_the_example_preset_are_understood() -> None:
    questions, wikipedia = SOURCES.validate_python(
        [
            {
                "type": "hf",
                "dataset": "sentence-transformers/natural-questions",
                "split": "train",
                "fields": ["query", "answer"],
                "format": "Q: {query}\nA: {answer}",
            },
            "wikipedia",
        ]
    )
    assert questions.source_name == "natural-questions"
    assert wikipedia == NAMED["wikipedia"]


def test_every_promised_name_stands_for_a_source_of_that_name() -> None:
    of_the_hub = {"wikipedia", "openwebtext", "c4", "bookcorpus", "pile_subset", "common_crawl"}
    assert set(SOURCE_NAMES) == of_the_hub | {"python_docs", "unicode_glyphs"}
    assert [config.source_name for config in SOURCES.validate_python(list(SOURCE_NAMES))] == list(SOURCE_NAMES)


def test_a_word_and_its_object_are_the_same_source() -> None:
    word, written = SOURCES.validate_python(["python_docs", {"type": "python_docs"}])
    assert word == written == PythonDocs.Config(type="python_docs")


@pytest.mark.parametrize(("word", "guess"), [("wikipdia", "wikipedia"), ("python-docs", "python_docs"), ("C4", "c4")])
def test_an_unknown_word_gets_a_guess_and_the_list(word: str, guess: str) -> None:
    with pytest.raises(ValidationError) as caught:
        SOURCES.validate_python([word])
    message = caught.value.errors()[0]["msg"]
    assert f"did you mean {guess!r}?" in message
    assert all(name in message for name in SOURCE_NAMES)


def test_an_unknown_key_is_an_error() -> None:
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        SOURCES.validate_python([{"type": "pdf", "paths": "a", "pats": "b"}])


def test_the_schema_offers_words_and_objects() -> None:
    schema = SOURCES.json_schema()
    word, kinds = schema["items"]["anyOf"]
    assert word == {"type": "string", "enum": list(SOURCE_NAMES)}
    files = {"images", "pdf", "text", "jsonl", "parquet"}
    assert set(kinds["discriminator"]["mapping"]) == files | {"hf", "python_docs", "unicode_glyphs"}


def test_a_configuration_survives_json() -> None:
    sources = SOURCES.validate_python(
        ["c4", {"type": "pdf", "paths": "a"}, {"type": "hf", "dataset": "csv", "data_files": "a.csv"}]
    )
    assert SOURCES.validate_json(SOURCES.dump_json(sources)) == sources


@pytest.mark.parametrize("name", ["a/b", "", "-a", "a b", "a.", "x" * 61])
def test_a_name_that_is_no_file_name_is_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        PythonDocs.Config(type="python_docs", name=name)


@pytest.mark.parametrize("text", ["a/b c", "...", "", "été", "x" * 99 + "."])
def test_a_default_name_is_always_a_file_name(text: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,59}", file_name_safe(text))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": "json"}, "say with data_files which ones"),
        ({"dataset": "csv", "data_files": {"test": ["a.csv"]}}, "no split 'train', only test"),
        ({"dataset": "a/b", "delimiter": ";"}, 'are for dataset "csv"'),
        ({"dataset": "a/b", "records_path": "x"}, 'is for dataset "json"'),
        ({"dataset": "a/b", "format": "{}"}, "needs the name of a field"),
    ],
)
def test_what_makes_no_sense_together_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        HuggingFace.Config(type="hf", **options)


def test_a_report_keeps_its_examples_few_and_its_counts_exact() -> None:
    report = SourceReport("pdf")
    for number in range(1000):
        report.drop("file: broken", f"{number}.pdf")
    assert report.drops == {"file: broken": 1000}
    assert len(report.examples["file: broken"]) == 100
