"""Reading preset files: where keys stand, and what is said about files that are no presets."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamlm.core.errors import PresetError, UserMistake
from dreamlm.presets.document import read_document


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.json"
    path.write_bytes(text.encode())
    return path


def test_every_key_and_element_knows_its_line(tmp_path: Path) -> None:
    text = '{\n "a": {"b": 1,\n  "c\\n": [true,\n   {"d": "}]"}, -1.5e3]},\n\n "e": null}'
    assert read_document(write(tmp_path, text)).lines == {
        ("a",): 2,
        ("a", "b"): 2,
        ("a", "c\n"): 3,
        ("a", "c\n", 0): 3,
        ("a", "c\n", 1): 4,
        ("a", "c\n", 1, "d"): 4,
        ("a", "c\n", 2): 4,
        ("e",): 6,
    }


json_values = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=3), json_values, max_size=4), st.sampled_from([None, 0, 2]))
def test_the_line_of_any_key_in_any_json_holds_that_key(
    tmp_path_factory: pytest.TempPathFactory, values: dict[str, object], indent: int | None
) -> None:
    import json

    text = json.dumps(values, indent=indent)
    document = read_document(write(tmp_path_factory.mktemp("json"), text))
    assert document.values == values
    for path, line in document.lines.items():
        if isinstance(path[-1], str):
            assert json.dumps(path[-1]) + ":" in text.split("\n")[line - 1]


def test_a_byte_order_mark_is_not_in_the_way(tmp_path: Path) -> None:
    assert read_document(write(tmp_path, '\ufeff{"a": 1}')).values == {"a": 1}


@pytest.mark.parametrize(
    ("text", "what", "where"),
    [
        ('{"a": 1,}', "not valid JSON: illegal trailing comma before end of object", 'mine.json:1:8: {"a": 1,}'),
        ("", "not valid JSON: expecting value", "mine.json:1:1: the file is empty"),
        ("[1]", "a preset is a JSON object, this file holds a list", "mine.json"),
        ("null", "a preset is a JSON object, this file holds null", "mine.json"),
        ('{"a": NaN}', "NaN is not a JSON number", "mine.json"),
        ("[" * 100_000, "the preset file is nested more than 100 objects or lists deep", "mine.json"),
        (
            '{"a": ' + "[" * 100 + "]" * 100 + "}",
            "the preset file is nested more than 100 objects or lists deep",
            "mine.json",
        ),
        ('{"a": ' + "1" * 5000 + "}", "the preset file holds a number of more digits than can be read", "mine.json"),
        (
            '{\n "a": {"b": 1}\n',
            "not valid JSON: expecting ',' delimiter",
            "mine.json:3:1: the file ends here; a brace or bracket may lack its other half",
        ),
        ('{"a": "\u2028",\n"b": 1x}', "not valid JSON: expecting ',' delimiter", 'mine.json:2:7: "b": 1x}'),
    ],
)
def test_a_file_that_is_no_preset_says_why(tmp_path: Path, text: str, what: str, where: str) -> None:
    with pytest.raises(UserMistake) as caught:
        read_document(write(tmp_path, text))
    # Python 3.13 names the trailing comma, earlier versions the property name that did not come.
    said = caught.value.what.replace(
        "expecting property name enclosed in double quotes", "illegal trailing comma before end of object"
    )
    assert said == what
    assert caught.value.where.removeprefix(f"{tmp_path}/").replace("1:9", "1:8") == where


def test_a_key_written_twice_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(PresetError) as caught:
        read_document(write(tmp_path, '{"train": {"seed": 1,\n"seed": 2}}'))
    (mistake,) = caught.value.mistakes
    assert (mistake.key, mistake.message) == ("train.seed", "stands here twice, first on line 1")
    assert mistake.hint.endswith("mine.json:2")


def test_a_missing_file_and_a_binary_file_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(UserMistake, match="cannot read the preset file: No such file or directory"):
        read_document(tmp_path / "absent.json")
    (tmp_path / "binary.json").write_bytes(b"\x80\x04\x95")
    with pytest.raises(UserMistake, match="is not UTF-8 text: invalid start byte"):
        read_document(tmp_path / "binary.json")


def test_a_file_may_be_nested_a_hundred_times(tmp_path: Path) -> None:
    document = read_document(write(tmp_path, '{"a": ' + "[" * 99 + "1" + "]" * 99 + "}"))
    assert len(document.lines) == 100
