"""Merging presets and `--set` assignments."""

import pytest

from dreamlm.core.errors import UserMistake
from dreamlm.presets.document import JsonDocument
from dreamlm.presets.layers import Assignment, Layers, merge, require_read


def test_objects_merge_and_everything_else_is_replaced() -> None:
    below = {"a": {"x": 1, "y": 2}, "list": [1, 2, 3], "kept": None}
    above = {"a": {"y": 3}, "list": [4], "new": 1}
    assert merge(below, above) == {"a": {"x": 1, "y": 3}, "list": [4], "kept": None, "new": 1}
    assert below == {"a": {"x": 1, "y": 2}, "list": [1, 2, 3], "kept": None}


def test_another_type_starts_a_choice_afresh_and_the_same_type_does_not() -> None:
    below = {"type": "adamw", "learning_rate": 1e-3, "betas": [0.9, 0.95]}
    assert merge(below, {"type": "muon", "learning_rate": 2e-2}) == {"type": "muon", "learning_rate": 2e-2}
    assert merge(below, {"type": "adamw", "learning_rate": 2.0})["betas"] == [0.9, 0.95]
    assert merge(below, {"learning_rate": 2.0})["type"] == "adamw"


def test_a_bare_string_below_an_object_stands_for_its_type() -> None:
    assert merge("rope", {"theta": 5}) == {"type": "rope", "theta": 5}
    assert merge({"type": "rope", "theta": 5}, "learned") == "learned"


def test_assigned_values_are_json_where_they_are_json() -> None:
    sets = [
        "a.int=3",
        "a.float=1e-3",
        "a.yes=true",
        "a.none=null",
        'a.list=["x"]',
        "a.word=bf16",
        "a.empty=",
        "a.eq=b=c",
    ]
    layers, mistakes = Layers({"a": {"int": 1, "other": 2}}).with_assignments(sets)
    assert not mistakes
    assert layers.values == {
        "a": {"int": 3, "other": 2, "float": 1e-3, "yes": True, "none": None, "list": ["x"], "word": "bf16"}
        | {"empty": "", "eq": "b=c"}
    }


def test_an_assignment_reaches_into_a_list_without_changing_what_is_below() -> None:
    below = {"sources": [{"type": "hf", "split": "train"}, "wikipedia"]}
    layers, mistakes = Layers(below).with_assignments(["sources.0.split=test", "sources.1=c4"])
    assert not mistakes
    assert layers.values == {"sources": [{"type": "hf", "split": "test"}, "c4"]}
    assert below["sources"][1] == "wikipedia"


def test_assigning_a_type_starts_the_choice_afresh() -> None:
    layers, _ = Layers({"o": {"type": "adamw", "betas": [1, 2]}}).with_assignments(["o.type=muon", "o.momentum=0.9"])
    assert layers.values == {"o": {"type": "muon", "momentum": 0.9}}


def test_every_assignment_that_cannot_be_applied_is_reported() -> None:
    layers, mistakes = Layers({"l": [1]}).with_assignments(["novalue", "=3", "a..b=3", "l.4=1", "l.x=1", "ok=1"])
    assert [mistake.key for mistake in mistakes] == ["--set novalue", "--set =3", "--set a..b=3", "l.4", "l.x"]
    assert mistakes[0].message == "is not KEY=VALUE"
    assert mistakes[3].message == "no element 4 in this list of 1; the first is 0"
    assert layers.values == {"l": [1], "ok": 1}


def test_the_origin_of_a_key_is_the_topmost_layer_that_wrote_it() -> None:
    layers = Layers().with_document(
        JsonDocument({"a": {"x": 1, "y": 1}}, {("a",): 1, ("a", "x"): 2, ("a", "y"): 3}), "p"
    )
    layers = layers.with_document(JsonDocument({"a": {"y": 2}}, {("a",): 7, ("a", "y"): 8}), "c")
    layers, _ = layers.with_assignments(["a.z=1"])
    assert layers.origin(("a", "x")) == "p:2"
    assert layers.origin(("a", "y")) == "c:8"
    assert layers.origin(("a", "z")) == "--set a.z=1"
    assert layers.origin(("a", "absent")) == "c:7"
    assert layers.origin(("absent",)) == ""


def test_a_mistake_in_an_option_names_the_option() -> None:
    layers, mistakes = Layers({}).with_assignments([Assignment("generate.top_p=3.0", "--top-p 3.0"), "a.b=1"])
    assert not mistakes
    assert layers.origin(("generate", "top_p")) == "--top-p 3.0"
    assert layers.origin(("a", "b")) == "--set a.b=1"


def weighted(values: dict[str, object], *above: dict[str, object]) -> dict[str, object]:
    layers = Layers()
    for each in (values, *above):
        layers = layers.with_document(JsonDocument(each, {}), "p")
    return dict(layers.values["data"])


PARENT = {"data": {"sources": ["wikipedia", "c4"], "source_weights": {"wikipedia": 2, "c4": 1}, "packing": "concat"}}


def test_other_sources_start_without_the_weights_of_the_parent() -> None:
    child = {"data": {"sources": ["python_docs"]}}
    assert weighted(PARENT, child) == {"sources": ["python_docs"], "packing": "concat"}


def test_other_sources_with_weights_have_those_alone() -> None:
    child = {"data": {"sources": ["c4", "python_docs"], "source_weights": {"c4": 3, "python_docs": 4}}}
    assert weighted(PARENT, child)["source_weights"] == {"c4": 3, "python_docs": 4}


def test_weights_of_the_same_sources_are_changed_one_by_one() -> None:
    assert weighted(PARENT, {"data": {"source_weights": {"c4": 5}}})["source_weights"] == {"wikipedia": 2, "c4": 5}


def test_assigned_sources_drop_the_weights_below_but_not_those_assigned_with_them() -> None:
    dropped, _ = Layers(PARENT).with_assignments(['data.sources=["c4"]'])
    assert "source_weights" not in dropped.values["data"]
    sets = ['data.sources=["c4"]', "data.source_weights.c4=7"]
    for order in (sets, sets[::-1]):
        layers, mistakes = Layers(PARENT).with_assignments(order)
        assert not mistakes
        assert layers.values["data"]["source_weights"] == {"c4": 7}
    changed, _ = Layers(PARENT).with_assignments(["data.sources.0=openwebtext"])
    assert changed.values["data"]["source_weights"] == {"wikipedia": 2, "c4": 1}


def test_a_word_in_place_of_a_list_of_sources_is_left_for_the_schema_to_refuse() -> None:
    layers, _ = Layers(PARENT).with_assignments(["data.sources=c4"])
    assert layers.values["data"]["sources"] == "c4"


def test_what_an_upper_layer_replaced_is_no_longer_an_origin() -> None:
    lines = {("l",): 1, ("l", 0): 2, ("l", 0, "a"): 3, ("l", 0, "b"): 4, ("m",): 5}
    layers = Layers().with_document(JsonDocument({"l": [{"a": 1, "b": 2}], "m": 1}, lines), "p")
    layers, _ = layers.with_assignments(['l=[{"b": 3}]'])
    assert layers.origin(("l", 0, "a")) == '--set l=[{"b": 3}]'
    assert layers.origin(("l", 0, "b")) == '--set l=[{"b": 3}]'
    assert layers.origin(("m",)) == "p:5"
    above = JsonDocument({"l": [{"b": 4}]}, {("l",): 7, ("l", 0): 8, ("l", 0, "b"): 9})
    assert layers.with_document(above, "c").origin(("l", 0, "a")) == "c:8"


def test_an_assignment_of_more_than_a_preset_holds_is_a_mistake() -> None:
    sets = ["x=" + "1" * 5000, "x=" + "[" * 100_000, ".".join("a" * 5000) + "=1", "a.b=" + "[" * 99 + "]" * 99]
    layers, mistakes = Layers({"a": 1}).with_assignments(sets)
    assert layers.values == {"a": 1}
    assert [mistake.message for mistake in mistakes] == [
        "holds a number of more digits than can be read",
        *["is nested more than 100 objects or lists deep"] * 3,
    ]
    assert all(len(mistake.key) == 80 for mistake in mistakes)


@pytest.mark.parametrize("text", ["eval.rows=3", 'eval={"rows": 3}', "data.packing=concat", " eval.rows =3"])
def test_an_assignment_that_is_read_is_let_through(text: str) -> None:
    require_read([text, Assignment("eval.seed=1", "--seed 1")], ["eval", "data.packing"], "eval.rows=3")


@pytest.mark.parametrize(
    "text", ["train.seed=1", "evaluate.rows=3", "data.packings=1", 'data={"packing": 1}', "rows=3", "oops"]
)
def test_an_assignment_that_nobody_reads_is_refused_with_what_is_read(text: str) -> None:
    with pytest.raises(UserMistake) as caught:
        require_read(["eval.rows=3", text, "name=x"], ["eval", "data.packing"], "eval.rows=3")
    assert caught.value.what == (
        f"--set {text}, --set name=x: would change nothing, as this command reads other keys of the model's preset"
    )
    assert (caught.value.valid, caught.value.hint) == (("eval", "data.packing"), "for example --set eval.rows=3")
