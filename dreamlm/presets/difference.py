"""In which keys two presets differ."""

from collections.abc import Iterator, Mapping
from typing import Any


def differences(left: Mapping[str, Any], right: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """(dotted key, left value, right value) of every leaf that differs, in order of keys; an absent value is None."""
    lefts, rights = dict(leaves(left)), dict(leaves(right))
    for key in dict.fromkeys([*lefts, *rights]):
        if lefts.get(key) != rights.get(key):
            yield key, lefts.get(key), rights.get(key)


def leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of everything in nested objects and lists that is neither; of an empty one, itself."""
    inside: Any = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    if not inside or not value:
        yield key, value
        return
    for name, inner in inside:
        yield from leaves(inner, f"{key}.{name}" if key else str(name))
