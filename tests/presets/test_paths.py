"""Where relative paths of a preset start."""

import json
from pathlib import Path
from typing import Any

import pytest

from dreamlm.core.errors import PresetError
from dreamlm.presets.library import names
from dreamlm.presets.paths import anchored
from dreamlm.presets.resolve import resolve, resolve_values
from dreamlm.presets.schema import published_schema


def written(path: Path, **values: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))
    return path


def sources_of(*sources: Any) -> dict[str, Any]:
    return {"sources": list(sources)}


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory: none that holds a preset."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "elsewhere"


def paths(preset: Any) -> list[str]:
    return [path for source in preset.data.sources for path in source.paths]


def test_paths_start_beside_the_file_that_holds_them_also_when_it_is_a_parent(elsewhere: Path, tmp_path: Path) -> None:
    written(tmp_path / "base" / "parent.json", data=sources_of({"type": "pdf", "paths": ["papers", "/far/away"]}))
    child = written(tmp_path / "child.json", extends="base/parent.json")
    assert paths(resolve(child)) == [str(tmp_path / "base" / "papers"), "/far/away"]
    assert paths(resolve(Path("..") / "child.json")) == paths(resolve(child))


def test_a_pattern_starts_in_a_folder_whose_name_looks_like_one(elsewhere: Path, tmp_path: Path) -> None:
    project = tmp_path / "proj [v2]"
    (project / "notes [old]").mkdir(parents=True)
    wanted = ["notes/*.txt", "../shared/*.txt", "notes [old]", "[[]x]/a?.txt", "plain.txt", "/far/*.txt"]
    preset = resolve(written(project / "p.json", data=sources_of({"type": "text", "paths": wanted})))
    escaped = f"{tmp_path}/proj [[]v2]"
    assert paths(preset) == [
        f"{escaped}/notes/*.txt",
        f"{tmp_path}/shared/*.txt",
        f"{project}/notes [old]",
        f"{escaped}/[[]x]/a?.txt",
        f"{project}/plain.txt",
        "/far/*.txt",
    ]
    assert paths(resolve_values(preset.model_dump(mode="json"), "snapshot")) == paths(preset)


def test_assigned_paths_start_at_the_current_directory(elsewhere: Path, tmp_path: Path) -> None:
    preset = written(
        tmp_path / "p.json", data=sources_of({"type": "text", "paths": "a"}, {"type": "text", "paths": "b"})
    )
    assert paths(resolve(preset, ["data.sources.1.paths=mine/*.pdf"])) == [
        str(tmp_path / "a"),
        str(elsewhere / "mine/*.pdf"),
    ]


def test_a_resolved_preset_means_the_same_from_any_directory(
    elsewhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = resolve(written(tmp_path / "p.json", data=sources_of({"type": "text", "paths": "a"}))).model_dump(
        mode="json"
    )
    monkeypatch.chdir(tmp_path.parent)
    assert resolve_values(kept, "snapshot").model_dump(mode="json") == kept


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ({"type": "text", "paths": "~/notes"}, {"type": "text", "paths": "~/notes"}),
        ({"dataset": "csv", "data_files": "a.csv"}, {"dataset": "csv", "data_files": "/base/a.csv"}),
        (
            {"dataset": "json", "data_files": {"train": ["a", "https://x/b"]}},
            {"dataset": "json", "data_files": {"train": ["/base/a", "https://x/b"]}},
        ),
        ({"dataset": "allenai/c4", "data_files": "en/*.gz"}, {"dataset": "allenai/c4", "data_files": "en/*.gz"}),
        ("wikipedia", "wikipedia"),
        ({"paths": [3, None]}, {"paths": [3, None]}),
        (7, 7),
    ],
)
def test_what_is_no_relative_path_stays_as_it_is(source: Any, expected: Any) -> None:
    assert anchored({"data": sources_of(source)}, Path("/base")) == {"data": sources_of(expected)}


def test_a_folder_beside_the_preset_comes_before_a_name_of_the_hub(tmp_path: Path) -> None:
    (tmp_path / "org" / "set").mkdir(parents=True)
    (tmp_path / "json").mkdir()
    local, remote, builder = {"dataset": "org/set"}, {"dataset": "org/other"}, {"dataset": "json"}
    found = anchored({"data": sources_of(local, remote, builder), "tokenizer": {"path": "org/set"}}, tmp_path)
    assert found == {
        "data": sources_of({"dataset": str(tmp_path / "org" / "set")}, remote, builder),
        "tokenizer": {"path": str(tmp_path / "org" / "set")},
    }


def literals(node: Any) -> set[str]:
    """Every word that a schema asks for literally."""
    if isinstance(node, list):
        return set().union(*map(literals, node))
    if not isinstance(node, dict):
        return set()
    words = [*node.get("enum", []), node.get("const")]
    return {word for word in words if isinstance(word, str)}.union(*map(literals, node.values()))


def test_a_folder_that_is_called_like_a_word_of_the_schema_changes_nothing(elsewhere: Path) -> None:
    presets = {name: resolve(name) for name in names()}
    words = literals(published_schema())
    assert {"prompt", "training", "document", "wikipedia", "pretrained", "adamw"} < words
    for word in words:
        (elsewhere / word).mkdir()
    for name, preset in presets.items():
        assert resolve(name) == preset
        assert resolve_values(preset.model_dump(mode="json"), "snapshot") == preset


def test_the_reward_model_of_a_preset_starts_beside_it(elsewhere: Path, tmp_path: Path) -> None:
    (tmp_path / "judge").mkdir()
    preset = resolve(written(tmp_path / "p.json", extends="tiny", rl={"learned_from": "judge"}))
    assert preset.rl.learned_from == str(tmp_path / "judge")


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder with a folder `there` in it."""
    (tmp_path / "user" / "there").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    return tmp_path / "user"


@pytest.mark.parametrize(("said", "meant"), [("~/there", "{home}/there"), ("~/not-there", "~/not-there"), ("", "")])
def test_a_folder_in_the_home_folder_is_a_path_under_every_key(user: Path, said: str, meant: str) -> None:
    def values(place: str) -> dict[str, Any]:
        return {
            "data": sources_of({"dataset": place}),
            "tokenizer": {"path": place},
            "model": {"init_from": place, "vision": {"path": place}},
            "rl": {"learned_from": place, "pairs": {"source": {"dataset": place}}},
        }

    assert anchored(values(said), Path("/base")) == values(meant.format(home=user))


EMPTY_CLIP = {"type": "clip", "path": ""}
PAIRS = {"source": {"type": "jsonl", "paths": ["a.jsonl", ""]}}


@pytest.mark.parametrize(
    ("key", "assigned", "message"),
    [
        ("model.init_from", "", "must not be empty; null means none"),
        ("rl.learned_from", "", "must not be empty; null means none"),
        ("model.vision.path", json.dumps(EMPTY_CLIP), "must not be empty"),
        ("rl.pairs.source.paths.1", json.dumps(PAIRS), "must not be empty"),
        ("data.sources.0.paths.0", '[{"type": "text", "paths": ""}]', "must not be empty"),
        ("data.sources.0.dataset", '[{"type": "hf", "dataset": ""}]', "must not be shorter than 1 characters"),
        ("tokenizer.path", '{"type": "pretrained", "path": ""}', "must not be shorter than 1 characters"),
    ],
)
def test_an_empty_text_is_no_folder(elsewhere: Path, key: str, assigned: str, message: str) -> None:
    target = key
    for inside in (".source.paths.1", ".0.paths.0", ".0.dataset", ".path"):
        target = target.removesuffix(inside)
    with pytest.raises(PresetError) as caught:
        resolve("tiny", [f"{target}={assigned}"])
    (mistake,) = caught.value.mistakes
    assert (mistake.key, mistake.message.partition(",")[0]) == (key, message)


@pytest.mark.parametrize("values", [{}, {"data": 3}, {"data": {"sources": "wikipedia"}}, {"tokenizer": "bpe"}])
def test_values_of_another_form_are_left_for_the_schema(values: dict[str, Any]) -> None:
    assert anchored(values, Path("/base")) == values


def test_a_path_is_written_one_way_and_dots_follow_links_as_the_system_does(elsewhere: Path, tmp_path: Path) -> None:
    (tmp_path / "far" / "inner").mkdir(parents=True)
    (elsewhere / "link").symlink_to(tmp_path / "far" / "inner")
    for said, meant in (("x/../notes", elsewhere / "notes"), ("link/../notes", tmp_path / "far" / "notes")):
        values = anchored({"data": sources_of({"type": "text", "paths": [said, "*/b.txt"]})}, elsewhere)
        assert values["data"]["sources"][0]["paths"] == [str(meant), str(elsewhere / "*/b.txt")]


@pytest.mark.parametrize("name", ["~$a.txt", "~nobody-of-that-name/x"])
def test_a_tilde_that_names_no_home_is_part_of_a_name(tmp_path: Path, name: str) -> None:
    source = {"type": "text", "paths": name}
    assert anchored({"data": sources_of(source)}, tmp_path)["data"]["sources"][0]["paths"] == str(tmp_path / name)
