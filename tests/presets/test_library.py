"""The library that ships: every preset is sound, described, and means what it says."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from dreamlm.core.errors import UserMistake
from dreamlm.presets.library import DEFAULT_PRESET, LIBRARY, description, find, names
from dreamlm.presets.resolve import resolve
from dreamlm.presets.schema import published_schema

EXAMPLE = {
    "name": "qa_plus_wiki",
    "model": {"hidden_size": 256, "num_layers": 3, "num_heads": 4, "seq_length": 256},
    "train": {"per_gpu_batch_size": 128, "accumulation_steps": 4, "eval_tokens": 2000000},
    "data": {
        "sources": [
            {
                "type": "hf",
                "dataset": "sentence-transformers/natural-questions",
                "split": "train",
                "fields": ["query", "answer"],
                "format": "Q: {query}\nA: {answer}",
            },
            "wikipedia",
        ],
        "mix_strategy": "round_robin",
        "min_text_length": 50,
    },
}
"""A preset as the public originals write it."""
DREAM_SIZES = {
    "dreaming_simple": (2, 3, 2, 1),
    "dreaming_complex": (4, 5, 3, 2),
    "dreaming_very_complex": (4, 7, 4, 3),
}
"""Dreams, their steps, hops, layers of an expert."""


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    schema = published_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("name", names())
def test_a_library_preset_obeys_the_published_schema_and_resolves(
    name: str, validator: jsonschema.Draft202012Validator
) -> None:
    validator.validate(json.loads((LIBRARY / f"{name}.json").read_text()))
    preset = resolve(name)
    assert preset.name == name
    assert description(name)
    assert len(preset.data.sources) >= 1


def test_the_library_has_the_promised_presets_and_the_default_among_them() -> None:
    systems = {"diffusion_thought", *DREAM_SIZES}
    tiny = {"tiny", "tiny_diffusion_thought", "tiny_dreaming", "tiny_multimodal", "tiny_thought"}
    assert {"best_general", "best_qa", "qa_plus_wiki", *systems, *tiny} <= set(names())
    assert DEFAULT_PRESET == "best_general"


@pytest.mark.parametrize("name", DREAM_SIZES)
def test_a_dreaming_preset_has_the_promised_sizes(name: str) -> None:
    (one,) = resolve(name).model.modules
    sizes = (one.num_dream_sequences, one.dream_length, one.graph_reasoning_hops, one.expert_num_layers)
    assert sizes == DREAM_SIZES[name]


@pytest.mark.parametrize("name", [name for name in names() if "diffusion" in name])
def test_a_diffusion_preset_writes_each_block_at_a_falling_temperature(name: str) -> None:
    preset = resolve(name)
    assert preset.model.diffusion is not None
    assert 0 < preset.generate.denoising.final_temperature < 1
    assert preset.generate.temperature > 0


@pytest.mark.parametrize("name", [name for name in names() if name.startswith("tiny")])
def test_tiny_presets_need_no_network(name: str) -> None:
    assert {source.type for source in resolve(name).data.sources} <= {"python_docs", "unicode_glyphs"}


def test_the_public_originals_example_means_what_it_says(
    tmp_path: Path, validator: jsonschema.Draft202012Validator
) -> None:
    validator.validate(EXAMPLE)
    path = tmp_path / "example.json"
    path.write_text(json.dumps(EXAMPLE))
    preset = resolve(path)
    assert (preset.model.hidden_size, preset.model.num_layers, preset.model.num_heads) == (256, 3, 4)
    assert preset.model.seq_length == 256
    assert (preset.train.per_gpu_batch_size, preset.train.accumulation_steps) == (128, 4)
    assert (preset.train.eval_tokens, preset.train.train_tokens) == (2_000_000, 100_000_000)
    assert (preset.data.mix_strategy, preset.data.min_text_length) == ("round_robin", 50)
    questions, wikipedia = preset.data.sources
    assert questions.type == wikipedia.type == "hf"
    assert questions.dataset == "sentence-transformers/natural-questions"
    assert (questions.split, list(questions.fields)) == ("train", ["query", "answer"])
    assert questions.format == "Q: {query}\nA: {answer}"
    assert "wikipedia" in wikipedia.dataset
    library = resolve("qa_plus_wiki").model_dump(exclude={"description"})
    assert library == preset.model_dump(exclude={"description"})


@pytest.mark.parametrize(
    "broken",
    [
        {"data": {"sources": ["nowhere"]}},
        {"data": {"sources": ["wikipedia"], "min_txt_length": 3}},
        {"model": {"hidden_size": "big"}, "data": {"sources": ["wikipedia"]}},
        {"train": {"optimizer": "sgd"}, "data": {"sources": ["wikipedia"]}},
        {"model": {}},
        {"data": {"sources": [{"max_documents": 3}]}},
        {"data": {"sources": [{"dataset": "a/b"}]}},
        {"data": {"sources": [{"paths": "papers"}]}},
        {"data": {"sources": ["hf"]}},
        {"data": {"sources": [{"type": "hf"}]}},
        {"data": {"sources": [{"type": "pdf", "paths": []}]}},
        {"data": {"sources": [{"type": "jsonl", "paths": []}]}},
        {"data": {"sources": [{"type": "pdf", "paths": "a", "fields": "text"}]}},
        {"data": {"sources": []}},
        {"data": {"sources": [{"type": "text", "paths": ""}]}},
        {"data": {"sources": [{"type": "images", "paths": ["birds", ""]}]}},
        {"data": {"sources": [{"type": "hf", "dataset": ""}]}},
        {"data": {"sources": [{"type": "hf", "dataset": "csv", "data_files": ""}]}},
        {"data": {"sources": [{"type": "hf", "dataset": "csv", "data_files": {"train": ["a.csv", ""]}}]}},
        {"data": {"sources": ["wikipedia"]}, "model": {"init_from": ""}},
        {"data": {"sources": ["wikipedia"]}, "model": {"vision": {"type": "clip", "path": ""}}},
        {"data": {"sources": ["wikipedia"]}, "tokenizer": {"type": "pretrained", "path": ""}},
        {"data": {"sources": ["wikipedia"]}, "rl": {"learned_from": ""}},
    ],
)
def test_the_published_schema_refuses_what_resolving_refuses(
    broken: dict[str, object], tmp_path: Path, validator: jsonschema.Draft202012Validator
) -> None:
    assert not validator.is_valid(broken)
    path = tmp_path / "broken.json"
    path.write_text(json.dumps(broken))
    with pytest.raises(UserMistake):
        resolve(path)


def leaves(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The path of every value that holds no other."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(inner, (*path, key))
    else:
        yield path


def resolves(values: object, path: Path) -> bool:
    path.write_text(json.dumps(values))
    try:
        resolve(path)
    except UserMistake:
        return False
    return True


def test_the_published_schema_and_resolving_agree_on_every_value_replaced_by_a_wrong_one(
    tmp_path: Path, validator: jsonschema.Draft202012Validator
) -> None:
    refused = 0
    for whole in (EXAMPLE, json.loads((LIBRARY / "tiny.json").read_text())):
        for leaf in leaves(whole):
            broken = copy.deepcopy(whole)
            around: Any = broken
            for part in leaf[:-1]:
                around = around[part]
            around[leaf[-1]] = {"no": "such"}
            accepted = resolves(broken, tmp_path / "broken.json")
            assert validator.is_valid(broken) == accepted, leaf
            refused += not accepted
    assert refused > 30


def test_a_bare_type_and_a_parent_are_valid_in_the_published_schema(
    validator: jsonschema.Draft202012Validator,
) -> None:
    validator.validate({"extends": "tiny", "train": {"optimizer": "muon"}, "model": {"positions": "learned"}})


def test_an_unknown_name_lists_the_library_and_the_near_one() -> None:
    with pytest.raises(UserMistake) as caught:
        find("tinny")
    assert caught.value.what == "no preset is called 'tinny'"
    assert caught.value.valid == tuple(names())
    assert caught.value.hint == "did you mean tiny?"


@pytest.mark.parametrize(
    ("asked", "hint"),
    [
        ("tiny.json", "did you mean tiny? a preset of the library is named without a folder and without .json"),
        ("./tiny.json", "did you mean tiny? a preset of the library is named without a folder and without .json"),
        ("presets/tinny", "did you mean tiny? a preset of the library is named without a folder and without .json"),
        ("minee.json", "did you mean the file mine.json?"),
        ("zebra.json", "give the path of a JSON file, or the name of a preset of the library"),
        ("mine", "to use the file of that name, write mine.json"),
        ("zebra", "for a file, give its path, such as ./zebra.json"),
        ("zebra.txt", "for a file, give its path, such as ./zebra.txt"),
        ("preset.txt", "to use the file of that name, write ./preset.txt"),
        ("", "for a file, give its path, such as ./my.json"),
    ],
)
def test_a_name_and_a_file_are_each_suggested_for_the_other(
    asked: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.json").write_text("{}")
    (tmp_path / "preset.txt").write_text("{}")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserMistake) as caught:
        find(asked)
    assert (caught.value.hint, caught.value.valid) == (hint, tuple(names()))


def test_a_parent_that_is_no_file_points_to_the_library(tmp_path: Path) -> None:
    (tmp_path / "child.json").write_text('{"extends": "tiny.json"}')
    with pytest.raises(UserMistake) as caught:
        resolve(tmp_path / "child.json")
    assert caught.value.what == "the preset to extend was not found: there is no such preset file"
    assert caught.value.where == f"{tmp_path / 'child.json'}:1"
    assert caught.value.hint.startswith("did you mean tiny?")


@pytest.mark.parametrize(
    "values",
    [
        {"data": {"sources": [{"type": "pdf", "paths": "papers"}]}},
        {"data": {"sources": [{"type": "jsonl", "paths": "a.jsonl", "fields": "text"}]}},
        {"data": {"sources": [{"type": "hf", "dataset": "csv", "data_files": "a.csv", "column_names": "text"}]}},
        {"data": {"sources": [{"type": "hf", "dataset": "csv", "data_files": {"train": ["a.csv", "b.csv"]}}]}},
        {"data": {"sources": ["wikipedia"]}, "train": {"optimizer": {"learning_rate": 0.1}}},
        {"data": {"sources": ["wikipedia"]}, "tokenizer": {"vocab_size": 1000}},
        {"data": {"sources": ["wikipedia"]}, "model": {"init_from": None}, "rl": {"learned_from": None}},
    ],
)
def test_the_published_schema_accepts_what_resolving_accepts(
    values: dict[str, object], tmp_path: Path, validator: jsonschema.Draft202012Validator
) -> None:
    path = tmp_path / "good.json"
    path.write_text(json.dumps(values))
    resolve(path)
    validator.validate(values)
