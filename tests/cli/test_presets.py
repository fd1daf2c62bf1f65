"""`dreamlm presets`: exact texts, streams and exit codes."""

import json
from pathlib import Path
from typing import Any

import pytest

from dreamlm.presets.library import names


def test_list_marks_the_default(cli: Any) -> None:
    outcome = cli("presets", "list")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.splitlines()[0].split() == ["name", "description"]
    assert "\nbest_general (default)  " in outcome.out
    listed = json.loads(cli("presets", "list", "--json").out)
    assert [one["name"] for one in listed if one["default"]] == ["best_general"]


def test_show_prints_every_default_and_the_assignments(cli: Any) -> None:
    outcome = cli("presets", "show", "tiny", "--set", "train.seed=3")
    shown = json.loads(outcome.out)
    assert (outcome.code, outcome.err) == (0, "")
    assert (shown["train"]["seed"], shown["train"]["max_grad_norm"]) == (3, 1.0)


def test_validate_reports_every_preset_and_exits_2_for_one_mistake(cli: Any, tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_text('{"extends": "tiny",\n "modle": {}}')
    outcome = cli("presets", "validate", "tiny", str(path))
    assert (outcome.code, outcome.out) == (2, "tiny: valid\n")
    assert outcome.err == (
        f"error: preset {path} has 1 mistake:\n"
        f"  modle: unknown key; did you mean model? ({path}:2)\n"
        "help: dreamlm presets schema prints every key\n"
    )
    verdicts = json.loads(cli("presets", "validate", "tiny", str(path), "--json").out)
    assert [verdict["valid"] for verdict in verdicts] == [True, False]
    assert verdicts[1]["mistakes"][0]["key"] == "modle"


def test_diff_shows_the_keys_that_differ(cli: Any, tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text('{"extends": "tiny", "name": "tiny", "train": {"seed": 9}}')
    rows = json.loads(cli("presets", "diff", "tiny", str(path), "--json").out)
    assert {row["key"] for row in rows} == {"description", "train.seed"}
    outcome = cli("presets", "diff", "tiny", "tiny")
    assert (outcome.code, outcome.out) == (0, "no difference\n")


@pytest.mark.parametrize("command", [("schema",), ("show", "tiny")])
def test_what_is_json_anyway_takes_the_flag_too(cli: Any, command: tuple[str, ...]) -> None:
    assert cli("presets", *command, "--json").out == cli("presets", *command).out != ""


def test_schema_is_json_that_names_its_dialect(cli: Any) -> None:
    schema = json.loads(cli("presets", "schema").out)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert {"model", "tokenizer", "data", "train", "eval", "generate", "extends"} <= schema["properties"].keys()


@pytest.mark.parametrize("command", [["presets", "show"], ["train", "--preset"], ["prepare", "--preset"]])
def test_an_unknown_preset_is_the_users_mistake_everywhere(cli: Any, command: list[str]) -> None:
    outcome = cli(*command, "tinny")
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err == (
        f"error: no preset is called 'tinny'\nvalid: {', '.join(names())}\nhelp: did you mean tiny?\n"
    )


def test_validate_tells_all_of_a_mistake_that_is_about_no_key(cli: Any, tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_text('{"extends": "tiny",\n "model" {}}')
    first, second = json.loads(cli("presets", "validate", "--json", str(path), "tinny").out)
    assert first["mistakes"] == [
        {
            "key": "",
            "message": "not valid JSON: expecting ':' delimiter",
            "where": f'{path}:2:10: "model" {{}}}}',
            "valid": [],
            "hint": "JSON wants double quotes, no comment, and no comma after the last element",
        }
    ]
    assert (second["mistakes"][0]["valid"], second["mistakes"][0]["hint"]) == ([*names()], "did you mean tiny?")
