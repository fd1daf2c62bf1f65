"""`dreamlm presets`: exact texts, streams and exit codes."""

import json
from pathlib import Path
from typing import Any

import pytest

from dreamlm.presets.library import names
from dreamlm.presets.resolve import resolve


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


def written(path: Path, values: Any) -> str:
    path.write_text(json.dumps(values))
    return str(path)


@pytest.mark.parametrize("name", [*names(), "dialogues"])
def test_what_show_prints_resolves_to_the_same(cli: Any, name: str, tmp_path: Path) -> None:
    pairs = {"source": {"type": "jsonl", "paths": "/a.jsonl"}, "prompt": None}
    preset = name if name in names() else written(tmp_path / "in.json", {"extends": "tiny", "rl": {"pairs": pairs}})
    shown = json.loads(cli("presets", "show", preset).out)
    assert "init_from" not in shown["model"]
    assert ("pairs" in shown["rl"]) == (name == "dialogues")
    assert resolve(written(tmp_path / "out.json", shown)) == resolve(preset)


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
    assert [row["key"] for row in rows] == ["description", "train.seed"]
    assert rows[1] == {"key": "train.seed", "left": 0, "right": 9}
    outcome = cli("presets", "diff", "tiny", "tiny")
    assert (outcome.code, outcome.out) == (0, "no difference\n")


def test_presets_of_one_name_are_told_apart_by_what_was_typed(cli: Any, tmp_path: Path) -> None:
    mine = written(tmp_path / "tiny.json", {"extends": "tiny", "train": {"seed": 9}})
    other = written(tmp_path / "other.json", {"extends": "tiny", "train": {"seed": 9}})
    assert cli("presets", "diff", "tiny", mine).out.splitlines()[0].split() == ["key", "tiny", mine]
    assert cli("presets", "diff", "tiny", other).out.splitlines()[0].split() == ["key", "tiny", "other"]


def test_assignments_are_checked_and_compared_too(cli: Any, tmp_path: Path) -> None:
    mine = written(tmp_path / "mine.json", {"extends": "tiny", "description": "", "train": {"seed": 9}})
    assert [
        row["key"] for row in json.loads(cli("presets", "diff", "tiny", mine, "--set", "train.seed=3", "--json").out)
    ] == ["name", "description"]
    outcome = cli("presets", "validate", "tiny", mine, "--set", "train.seed=-1")
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.count("train.seed: must be at least 0, not -1 (--set train.seed=-1)") == 2


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
