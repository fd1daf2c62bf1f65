"""Where two presets differ."""

from dreamlm.presets.difference import differences, leaves


def test_leaves_go_through_objects_and_lists_and_keep_empty_ones() -> None:
    value = {"a": {"b": [1, {"c": 2}], "d": {}}, "e": [], "f": None}
    assert dict(leaves(value)) == {"a.b.0": 1, "a.b.1.c": 2, "a.d": {}, "e": [], "f": None}


def test_only_what_differs_is_named_once_and_in_order() -> None:
    left = {"sources": [{"paths": ["a"], "type": "text"}], "x": 1, "old": 2}
    right = {"sources": [{"paths": ["b", "c"], "type": "text"}], "x": 1, "new": 3}
    assert list(differences(left, right)) == [
        ("sources.0.paths.0", "a", "b"),
        ("old", 2, None),
        ("sources.0.paths.1", None, "c"),
        ("new", None, 3),
    ]
