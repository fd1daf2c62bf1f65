"""Claims about turning records into text."""

import pytest

from dreamlm.core.errors import UserMistake
from dreamlm.data_sources.sources.records import RecordFormat, UnusableRecord, check_format, format_fields

RECORD = {"question": "Why?", "answer": "Because.", "score": 3, "good": True, "empty": " ", "null": None, "tags": ["x"]}


def test_a_format_is_filled_in() -> None:
    form = RecordFormat(("question", "answer"), "Q: {question}\nA: {answer}")
    assert form.text_of(RECORD) == "Q: Why?\nA: Because."


def test_fields_without_format_stand_on_their_own_lines() -> None:
    assert RecordFormat(("question", "answer")).text_of(RECORD) == "Why?\nBecause."


def test_numbers_and_truth_values_become_text() -> None:
    assert RecordFormat(format="{score} {good}").text_of(RECORD) == "3 True"


def test_a_format_reaches_into_lists_and_objects() -> None:
    record = {"answers": [{"text": "Paris"}]}
    assert RecordFormat(format="{answers[0][text]}").text_of(record) == "Paris"


def test_numbers_are_written_as_a_format_asks() -> None:
    assert RecordFormat(format="{score:.1f} of {score:>3}").text_of(RECORD) == "3.0 of   3"


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{tags}", "field tags is no text but a list"),
        ("{answers}", "field answers is no text but a dict"),
        ("{answers[text]}", r"field answers\[text\] is no text but a list"),
        ("{answers[start]}", r"field answers\[start\] is null"),
        ("{question.upper}", r"field question.upper is no text but a builtin_function_or_method"),
    ],
)
def test_no_python_syntax_gets_into_a_text(template: str, reason: str) -> None:
    record = {**RECORD, "answers": {"text": ["Paris"], "start": None}}
    with pytest.raises(UnusableRecord, match=f"^{reason}$"):
        RecordFormat(format=template).text_of(record)


def test_without_any_wish_the_field_text_is_read_or_the_only_string() -> None:
    assert RecordFormat().text_of({"text": "this", "title": "not this"}) == "this"
    assert RecordFormat().text_of({"content": "this", "id": 7}) == "this"


def test_the_first_record_decides_the_field_for_all() -> None:
    form = RecordFormat()
    with pytest.raises(UserMistake):
        form.check({"title": "T", "body": "this"}, "a.jsonl")
    assert form.text_of({"body": "this", "title": None}) == "this"
    assert form.text_of({"body": "this", "title": "T"}) == "this"
    assert form.used_part({"body": "this", "title": "T"}) == {"body": "this"}
    assert form.used_part({"error": "not found"}) == {}
    with pytest.raises(UnusableRecord, match="lacks the field body"):
        form.text_of({"error": "not found"})


@pytest.mark.parametrize(
    ("field", "reason"),
    [
        ("empty", "field empty is empty"),
        ("null", "field null is null"),
        ("tags", "field tags is no text but a list"),
        ("gone", "lacks the field gone"),
    ],
)
def test_a_value_without_text_makes_the_record_unusable(field: str, reason: str) -> None:
    with pytest.raises(UnusableRecord, match=f"^{reason}$"):
        RecordFormat((field,)).text_of(RECORD)


def test_a_record_that_does_not_fit_the_format_is_unusable() -> None:
    with pytest.raises(UnusableRecord, match="does not fit the format"):
        RecordFormat(format="{tags[5]}").text_of(RECORD)


def test_a_format_naming_an_unknown_field_lists_the_fields() -> None:
    with pytest.raises(UserMistake) as caught:
        RecordFormat(format="{query}").check({"question": "", "answer": ""}, "train.jsonl")
    assert str(caught.value) == (
        "the records have no field 'query'\nat: train.jsonl\nvalid: question, answer\n"
        'help: for example "fields": ["question", "answer"], "format": "Q: {question}\\nA: {answer}"'
    )


def test_nested_json_is_recognised_in_the_hint() -> None:
    with pytest.raises(UserMistake, match="records_path"):
        RecordFormat().check({"version": "1.1", "data": [{"paragraphs": []}]}, "squad.json")


def test_an_error_about_a_huge_record_stays_short() -> None:
    with pytest.raises(UserMistake) as caught:
        RecordFormat().check({f"id{n}": {} for n in range(5000)}, "keyed.json")
    assert caught.value.valid[-1] == "... and 4970 more"


@pytest.mark.parametrize("template", ["{}", "{0}", "{question", "{question:{width}}"])
def test_a_malformed_format_is_found_without_any_record(template: str) -> None:
    with pytest.raises(ValueError, match=r"name of a field|expected '}'|hold a field"):
        format_fields(template)


@pytest.mark.parametrize(("fields", "example"), [([], "{text}"), (["question"], "{question}")])
def test_a_format_without_a_field_is_refused(fields: list[str], example: str) -> None:
    with pytest.raises(ValueError, match=f"the format names no field; one stands in single braces, as in {example}"):
        check_format(fields, "Q: {{text}} is said")


def test_a_format_must_keep_to_the_listed_fields() -> None:
    with pytest.raises(ValueError, match="'answer', which `fields` does not list: question"):
        check_format(["question"], "{question} {answer}")
