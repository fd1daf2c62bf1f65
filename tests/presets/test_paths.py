"""Where relative paths of a preset start."""

import json
from pathlib import Path
from typing import Any

import pytest

from dreamlm.presets.paths import anchored
from dreamlm.presets.resolve import resolve, resolve_values


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
