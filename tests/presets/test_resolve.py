"""From a name or a file to a preset: parents, assignments, and all mistakes at once."""

import json
from pathlib import Path
from typing import Any

import pytest

from dreamlm.core.errors import PresetError, UserMistake
from dreamlm.presets.resolve import resolve, resolve_values


def write(folder: Path, name: str, values: dict[str, Any]) -> Path:
    path = folder / name
    path.write_text(json.dumps(values, indent=1))
    return path


def test_a_child_inherits_values_but_neither_name_nor_description(tmp_path: Path) -> None:
    path = write(tmp_path, "mine.json", {"extends": "tiny", "model": {"num_layers": 2}})
    preset, parent = resolve(path), resolve("tiny")
    assert (preset.name, preset.description, preset.extends) == ("mine", "", None)
    assert preset.model == parent.model.model_copy(update={"num_layers": 2})
    assert (preset.data, preset.train) == (parent.data, parent.train)


def test_parents_are_found_beside_the_file_that_names_them(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    write(tmp_path, "grandparent.json", {"extends": "tiny", "train": {"seed": 5}, "model": {"num_layers": 1}})
    write(tmp_path / "below", "parent.json", {"extends": "../grandparent.json", "model": {"num_layers": 2}})
    preset = resolve(write(tmp_path, "child.json", {"name": "c", "extends": "below/parent.json"}))
    assert (preset.name, preset.train.seed, preset.model.num_layers) == ("c", 5, 2)


def test_a_circle_of_parents_is_shown(tmp_path: Path) -> None:
    path = write(tmp_path, "a.json", {"extends": "b.json"})
    write(tmp_path, "b.json", {"extends": "a.json"})
    with pytest.raises(UserMistake) as caught:
        resolve(path)
    said = str(caught.value).replace(f"{tmp_path}/", "")
    assert said == "extends goes in a circle: a.json -> b.json -> a.json\nat: b.json:2"


def test_a_missing_parent_says_who_wanted_it(tmp_path: Path) -> None:
    path = write(tmp_path, "a.json", {"model": {}, "extends": "tinny"})
    with pytest.raises(UserMistake) as caught:
        resolve(path)
    assert caught.value.what == "the preset to extend was not found: no preset is called 'tinny'"
    assert caught.value.where == f"{path}:3"
    assert caught.value.hint == "did you mean tiny?"


def test_assignments_come_last() -> None:
    preset = resolve("tiny", ["train.seed=7", "train.optimizer=adamw", 'train.sample_prompts=["A"]', "name=x"])
    assert (preset.train.seed, preset.train.optimizer.type, preset.train.sample_prompts) == (7, "adamw", ("A",))
    assert preset.name == "x"


def test_every_mistake_is_reported_at_once_with_its_place(tmp_path: Path) -> None:
    text = """{
      "extends": "tiny",
      "model": {"hidden_size": 100, "num_heads": 3, "seqlength": 64},
      "train": {"learning_rate": 0.1, "precision": "fp16"},
      "data": {
        "sources": ["python_docs", {"type": "hf", "datset": "x"}],
        "mix_strategy": "weighted",
        "source_weights": {"python_docs": 1}
      },
      "generate": {"top_p": 1.5}
    }"""
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(PresetError) as caught:
        resolve(path, ["train.seed=-1", "oops"])
    said = str(caught.value).replace(f"{tmp_path}/", "")
    assert said == (
        "preset bad.json has 9 mistakes:\n"
        "  --set oops: is not KEY=VALUE (for example --set train.seed=1)\n"
        "  model.seqlength: unknown key; did you mean model.seq_length? (bad.json:3)\n"
        "  data.sources.1.dataset: is missing, and has no default (bad.json:6)\n"
        "  data.sources.1.datset: unknown key; did you mean data.sources.1.dataset? (bad.json:6)\n"
        "  train.precision: must be 'auto', 'bf16' or 'fp32', not \"fp16\"; did you mean 'bf16'? (bad.json:4)\n"
        "  train.seed: must be at least 0, not -1 (--set train.seed=-1)\n"
        "  train.learning_rate: unknown key; did you mean train.optimizer.learning_rate? (bad.json:4)\n"
        "  generate.top_p: must be at most 1.0, not 1.5 (bad.json:10)\n"
        "  model: hidden_size 100 must be num_heads 3 times an even head size (bad.json:3)\n"
        "help: dreamlm presets schema prints every key"
    )


def test_weights_must_name_the_sources(tmp_path: Path) -> None:
    data = {"sources": ["python_docs"], "mix_strategy": "weighted", "source_weights": {"pythondocs": 1.0}}
    path = write(tmp_path, "w.json", {"data": data})
    with pytest.raises(PresetError) as caught:
        resolve(path)
    assert [(mistake.key, mistake.message) for mistake in caught.value.mistakes] == [
        ("data.source_weights.pythondocs", "is no source; sources: python_docs"),
        ("data.source_weights", "has no weight for python_docs"),
    ]


def test_two_sources_of_one_name_are_a_mistake(tmp_path: Path) -> None:
    path = write(tmp_path, "w.json", {"data": {"sources": ["python_docs", "python_docs"]}})
    with pytest.raises(PresetError, match="2 sources are called 'python_docs'; give them a name of their own"):
        resolve(path)


def test_an_unknown_source_word_suggests_the_near_one(tmp_path: Path) -> None:
    path = write(tmp_path, "w.json", {"data": {"sources": ["wikipeda"]}})
    with pytest.raises(PresetError) as caught:
        resolve(path)
    (mistake,) = caught.value.mistakes
    assert mistake.key == "data.sources.0"
    assert mistake.message.startswith("no source is called 'wikipeda'; did you mean 'wikipedia'?")


def test_a_resolved_preset_resolves_to_itself() -> None:
    preset = resolve("tiny")
    assert resolve_values(preset.model_dump(mode="json"), "preset.json") == preset


def test_a_resolved_preset_still_takes_assignments_and_refuses_mistakes() -> None:
    values = resolve("tiny").model_dump(mode="json")
    assert resolve_values(values, "preset.json", ["generate.top_k=5"]).generate.top_k == 5
    with pytest.raises(PresetError, match=r"preset preset\.json has 1 mistake"):
        resolve_values(values, "preset.json", ["generate.top_k=-5"])


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ({"type": "pdf", "path": "x"}, "data.sources.0.path: unknown key; did you mean data.sources.0.paths?"),
        ({"type": "text", "folder": "x"}, "data.sources.0.folder: unknown key; did you mean data.sources.0.paths?"),
        ({"type": "hf", "path": "x"}, "data.sources.0.path: unknown key; did you mean data.sources.0.dataset?"),
        ({"type": "hf", "split": "a", "lines": 3}, "data.sources.0.lines: unknown key"),
    ],
)
def test_an_unknown_key_of_a_source_suggests_a_key_of_its_own_type(
    source: dict[str, object], complaint: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"data": {"sources": [source]}}))
    with pytest.raises(PresetError) as caught:
        resolve(path)
    assert complaint in [f"{mistake.key}: {mistake.message}" for mistake in caught.value.mistakes]


@pytest.mark.parametrize("name", ["", " ", "..", "../../elsewhere", "a/b", "a\\b", "a\nb"])
def test_a_name_that_would_lead_out_of_its_folder_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"name": name, "extends": "tiny"}))
    with pytest.raises(PresetError, match="runs and corpora are called after it"):
        resolve(path)


def mistakes_of(*sets: str) -> list[tuple[str, str]]:
    with pytest.raises(PresetError) as caught:
        resolve("tiny", sets)
    return [(mistake.key, mistake.message) for mistake in caught.value.mistakes]


@pytest.mark.parametrize(
    ("weights", "key", "message"),
    [
        ("[-1, 1]", ".0", "must be at least 0.0, not -1"),
        ('{"a": 1, "b": -2}', ".b", "must be at least 0.0, not -2"),
        ("[NaN, 1]", ".0", "must be a finite number, not NaN"),
        ("[1, Infinity]", ".1", "must be a finite number, not Infinity"),
        ("[0, 0]", "", "must add up to a finite number above 0"),
        ("[1e308, 1e308]", "", "must add up to a finite number above 0"),
    ],
)
def test_weights_that_nothing_can_be_drawn_by_are_mistakes_of_the_preset(weights: str, key: str, message: str) -> None:
    sources = '[{"type": "text", "name": "a", "paths": "a"}, {"type": "text", "name": "b", "paths": "b"}]'
    sets = [f"data.sources={sources}", "data.mix_strategy=weighted", f"data.source_weights={weights}"]
    assert mistakes_of(*sets) == [(f"data.source_weights{key}", message)]


def test_weights_without_their_strategy_are_told_by_their_key() -> None:
    assert mistakes_of("data.source_weights=[1]") == [("data.source_weights", "needs mix_strategy 'weighted'")]
    sets = ("data.source_weights=[1]", "data.mix_strategy=weightd")
    assert [key for key, _ in mistakes_of(*sets)] == ["data.mix_strategy"]


@pytest.mark.parametrize("value", ["Infinity", "-Infinity", "NaN", "1e999"])
def test_numbers_are_finite(value: str) -> None:
    ((key, message),) = mistakes_of(f"train.optimizer.learning_rate={value}")
    assert (key, message.partition(",")[0]) == ("train.optimizer.learning_rate", "must be a finite number")


def test_a_parent_cannot_be_assigned() -> None:
    ((key, message), other) = mistakes_of("extends=best_general", "train.seed=-1")
    assert (key, message.partition(",")[0]) == ("extends", "names the parent of a file")
    assert other[0] == "train.seed"


def test_an_assignment_changes_a_source_that_a_word_stands_for() -> None:
    sets = ['data.sources=["wikipedia", "python_docs"]', "data.sources.0.max_documents=3", "data.sources.1.name=docs"]
    wikipedia, docs = resolve("tiny", sets).data.sources
    (whole,) = resolve("tiny", ['data.sources=["wikipedia"]']).data.sources
    assert wikipedia == whole.model_copy(update={"max_documents": 3})
    assert (docs.type, docs.name) == ("python_docs", "docs")


def test_the_least_tokens_are_told_by_their_own_key() -> None:
    wrong = [("generate.min_new_tokens", "500 is above max_new_tokens, 9")]
    assert mistakes_of("generate.max_new_tokens=9", "generate.min_new_tokens=500") == wrong
    assert [key for key, _ in mistakes_of("generate.max_new_tokens=0", "generate.min_new_tokens=5")] == [
        "generate.max_new_tokens"
    ]


@pytest.mark.parametrize("key", ["eval.rows", "generate.rows", "generate.no_repeat_ngram"])
def test_sizes_that_no_list_has_are_refused(key: str) -> None:
    ((found, message),) = mistakes_of(f"{key}={10**20}")
    assert (found, message) == (key, f"must be at most 1000000, not {10**20}")
