"""What the README shows is what the commands say."""

import re
from pathlib import Path
from typing import Any

import pytest

README = Path(__file__).parents[2] / "README.md"


def sessions() -> dict[str, str]:
    """Each command of a console block with the output shown below it."""
    blocks = re.findall(r"```console\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    shown = re.findall(r"^\$ ([^\n]*)\n(.*?)(?=^\$ |\Z)", "".join(blocks), re.DOTALL | re.MULTILINE)
    return dict(shown)


def test_the_list_of_presets_is_the_one_shown(cli: Any) -> None:
    assert cli("presets", "list").out == sessions()["dreamlm presets list"]


def test_the_mistakes_are_the_ones_shown(cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.json").write_text(sessions()["cat mine.json"])
    outcome = cli("presets", "validate", "mine.json")
    assert (outcome.code, outcome.err) == (2, sessions()["dreamlm presets validate mine.json"])


def test_there_are_exactly_two_set_up_commands_and_ci_runs_the_second() -> None:
    set_up = README.read_text(encoding="utf-8").partition("## Set up")[2].partition("## A short tour")[0]
    commands = re.findall(r"```sh\n(.*?)```", set_up, re.DOTALL)
    assert commands[0] == "python -m pip install -e . && dreamlm train --preset tiny\n"
    assert commands[1] == "python -m pip install -e '.[test]' && python -m pytest -n 2\n"
    assert len(commands) == 2
