"""Where prompts come from, and the menu that asks for a preset."""

import io
from pathlib import Path
from typing import Any

import pytest
from terminal import Terminal

from dreamlm.cli.console import Console
from dreamlm.cli.menu import choose_preset
from dreamlm.cli.prompts import batches, chosen_prompts, prompts_for, prompts_in, read_prompts
from dreamlm.core.errors import UserMistake


def test_lines_are_prompts_and_empty_lines_are_not() -> None:
    assert list(read_prompts(["one\n", "\n", " two {\r\n", "{three"])) == ["one", " two {", "{three"]


def test_a_first_line_in_braces_makes_every_line_json() -> None:
    assert list(read_prompts(["\n", '{"prompt": "a\\nb"}\n', '{"id": 1, "prompt": ""}\n'])) == ["a\nb", ""]


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("plain", "not valid JSON: Expecting value"),
        ('{"promt": "x"}', "this line has no `prompt`: its keys are promt"),
        ("[1]", "this line has no `prompt`: it is no object with keys"),
        ('{"prompt": 3}', "`prompt` must be text"),
    ],
)
def test_a_bad_json_line_is_named_by_its_number(line: str, what: str) -> None:
    with pytest.raises(UserMistake) as caught:
        list(read_prompts(['{"prompt": "good"}', line]))
    assert (caught.value.what, caught.value.where) == (what, "stdin, line 2")


def test_arguments_come_before_stdin_and_a_terminal_is_not_waited_for() -> None:
    assert list(chosen_prompts(["a", ""], io.StringIO("b"))) == ["a", ""]
    assert list(chosen_prompts([], io.StringIO("b"))) == ["b"]
    with pytest.raises(UserMistake, match="there is no prompt"):
        chosen_prompts([], Terminal())


def test_batches_begin_before_the_input_has_ended() -> None:
    def endless() -> Any:
        while True:
            yield "x"

    assert next(batches(endless(), 3)) == ["x", "x", "x"]
    assert list(batches("abcde", 2)) == [["a", "b"], ["c", "d"], ["e"]]


@pytest.mark.parametrize(("answer", "chosen"), [("", "best_general"), ("1", "best_general"), ("tiny", "tiny")])
def test_the_menu_takes_a_number_a_name_or_enter(monkeypatch: pytest.MonkeyPatch, answer: str, chosen: str) -> None:
    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setattr("sys.stdin", Terminal(answer + "\n"))
    assert choose_preset(Console()) == chosen
    assert "  1  best_general" in screen.getvalue()
    assert screen.getvalue().endswith("Which preset? A number or a name; Enter takes best_general: ")


def test_a_wrong_answer_to_the_menu_is_a_mistake_with_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", Terminal())
    monkeypatch.setattr("sys.stdin", Terminal("tinny\n"))
    with pytest.raises(UserMistake) as caught:
        choose_preset(Console())
    assert (caught.value.what, caught.value.hint) == ("no preset is called 'tinny'", "did you mean tiny?")


def test_nobody_to_ask_means_the_default(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("tiny\n"))
    assert choose_preset(Console()) == "best_general"
    assert capsys.readouterr().err == "no --preset given: taking best_general\n"


def test_a_prompt_in_another_encoding_is_named_by_its_line() -> None:
    latin = "ab\nGr\udcfc\udcdfe\n"  # how stdin hands on bytes that are no UTF-8
    with pytest.raises(UserMistake, match="not UTF-8") as caught:
        list(read_prompts(latin.splitlines()))
    assert caught.value.where == "stdin, line 2"


@pytest.mark.parametrize(("pictures", "named"), [(1, "1 picture"), (2, "2 pictures")])
def test_prompts_are_shared_among_pictures_or_refused(pictures: int, named: str) -> None:
    images = [Path(f"{number}.png") for number in range(pictures)]
    assert list(prompts_for(images, [])) == [""] * pictures
    assert list(prompts_for(images, ["a"])) == ["a"] * pictures
    assert list(prompts_for(images, ["a", "b", "c"][:pictures])) == ["a", "b", "c"][:pictures]
    with pytest.raises(UserMistake) as caught:
        prompts_for(images, ["a", "b", "c"])
    assert (caught.value.what, caught.value.where) == (f"3 prompts cannot be shared among {named}", "--image")


def test_a_file_of_prompts_is_read_as_stdin_and_errors_name_it(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_bytes("one\n\nGrüße\n".encode())
    assert prompts_in(file) == ["one", "Grüße"]
    file.write_bytes("one\nGrüße\n".encode("latin-1"))
    with pytest.raises(UserMistake, match="not UTF-8") as caught:
        prompts_in(file)
    assert caught.value.where == f"{file}, line 2"
    file.write_text("\n")
    with pytest.raises(UserMistake, match="there is no prompt in this file"):
        prompts_in(file)
    with pytest.raises(UserMistake, match="cannot read the prompts: No such file"):
        prompts_in(tmp_path / "absent")


def test_a_byte_order_mark_is_not_in_the_way(tmp_path: Path) -> None:
    lines = '\ufeff{"prompt": "one"}\n{"prompt": "\ufefftwo"}\n'
    assert list(read_prompts(lines.splitlines(keepends=True))) == ["one", "\ufefftwo"]
    file = tmp_path / "prompts.jsonl"
    file.write_bytes(lines.encode())
    assert prompts_in(file) == ["one", "\ufefftwo"]
    assert list(read_prompts(["\ufeff\n", "\ufeffplain"])) == ["\ufeffplain"]


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (r'{"prompt": "\ud800"}', "`prompt` is no valid Unicode: it holds half a surrogate pair"),
        ('{"prompt": ' + "1" * 5000 + "}", "this JSON holds a number of too many digits, or is nested too deeply"),
        ("[" * 100_000, "this JSON holds a number of too many digits, or is nested too deeply"),
    ],
)
def test_json_that_holds_no_usable_text_is_named_by_its_line(line: str, what: str) -> None:
    with pytest.raises(UserMistake) as caught:
        list(read_prompts([r'{"prompt": "\ud83d\ude42"}', line]))
    assert (caught.value.what, caught.value.where) == (what, "stdin, line 2")


def test_an_argument_in_another_encoding_is_named_by_its_number() -> None:
    latin = "Gr\udcfc\udcdfe"  # how Python hands on bytes that are no UTF-8
    with pytest.raises(UserMistake, match="not UTF-8") as caught:
        chosen_prompts(["a", latin], io.StringIO())
    assert caught.value.where == "argument 2"
    with pytest.raises(UserMistake, match="not UTF-8"):
        prompts_for([Path("a.png")], [latin])
