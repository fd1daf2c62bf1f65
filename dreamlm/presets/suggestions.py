"""What the writer of an unknown key probably meant: a near spelling, the same name elsewhere, or a known synonym."""

from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from typing import Any

from dreamlm.presets.document import KeyPath

_SYNONYMS = {
    "batch_size": "per_gpu_batch_size",
    "block_size": "seq_length",
    "context_length": "seq_length",
    "d_model": "hidden_size",
    "d_head": "head_dim",
    "dim": "hidden_size",
    "epochs": "train_tokens",
    "gradient_accumulation_steps": "accumulation_steps",
    "head_size": "head_dim",
    "lr": "learning_rate",
    "max_steps": "train_tokens",
    "micro_batch_size": "per_gpu_batch_size",
    "n_embd": "hidden_size",
    "n_head": "num_heads",
    "n_layer": "num_layers",
}
"""Names that other trainers use for the same thing."""

_SYNONYMS_BESIDE = {
    "directory": "paths",
    "file": "paths",
    "files": "paths",
    "folder": "paths",
    "id": "dataset",
    "path": "dataset",
}
"""Names whose meaning depends on the object they stand in: believed only where it has the key."""


def close(word: str, valid: Iterable[str]) -> str:
    """The one valid word most like `word`, or nothing when none is near."""
    return next(iter(get_close_matches(word, list(valid), n=1, cutoff=0.6)), "")


def schema_keys(schema: dict[str, Any]) -> Sequence[KeyPath]:
    """Every key of a JSON Schema from the outside in; all members of a choice, without indexes of lists."""
    return tuple(dict.fromkeys(_keys(schema, schema.get("$defs", {}), ())))


def _keys(node: dict[str, Any], definitions: dict[str, Any], path: KeyPath) -> Iterator[KeyPath]:
    if "$ref" in node:
        node = definitions[node["$ref"].removeprefix("#/$defs/")]
    for choice in ("anyOf", "oneOf", "allOf"):
        for member in node.get(choice, ()):
            yield from _keys(member, definitions, path)
    if isinstance(node.get("items"), dict):
        yield from _keys(node["items"], definitions, path)
    for name, child in node.get("properties", {}).items():
        yield (*path, name)
        yield from _keys(child, definitions, (*path, name))


def keys_at(schema: dict[str, Any], location: Sequence[str | int]) -> Sequence[str]:
    """The keys of the object at a location as pydantic names it, of the member chosen there; empty when unclear."""
    definitions = schema.get("$defs", {})
    nodes = [schema]
    for part in location:
        nodes = [inner for node in nodes for inner in _inside(node, part, definitions)]
    members = [member for node in nodes for member in _members(node, definitions)]
    return tuple(dict.fromkeys(name for member in members for name in member.get("properties", {})))


def _inside(node: dict[str, Any], part: str | int, definitions: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What a part of a location leads to: a key's value, a list's element, or the member of a choice with that type."""
    for member in _members(node, definitions):
        if part in member.get("discriminator", {}).get("mapping", {}):
            yield {"$ref": member["discriminator"]["mapping"][part]}
        elif part in member.get("properties", {}):
            yield member["properties"][part]
        elif isinstance(part, int) and isinstance(member.get("items"), dict):
            yield member["items"]


def _members(node: dict[str, Any], definitions: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The node, and the alternatives it may be; of a choice by `type` the choice alone."""
    if "$ref" in node:
        node = definitions[node["$ref"].removeprefix("#/$defs/")]
    yield node
    if "discriminator" not in node:
        for choice in ("anyOf", "oneOf", "allOf"):
            for member in node.get(choice, ()):
                yield from _members(member, definitions)


def suggest(path: KeyPath, keys: Sequence[KeyPath]) -> Sequence[KeyPath]:
    """The keys that an unknown key may stand for, best first; at most three.

    A near spelling or a synonym beside it comes first, then the same name (or its synonym) anywhere, where it is least
    deep, then a near spelling anywhere.
    """
    leaf = str(path[-1])
    beside = [key for key in keys if key[:-1] == path[:-1]]
    near = get_close_matches(leaf, [str(key[-1]) for key in beside], n=1, cutoff=0.8)
    if wanted := [*near, _SYNONYMS_BESIDE.get(leaf)]:
        found = [key for key in beside if key[-1] in wanted]
        if found:
            return found[:1]
    for name in (leaf, _SYNONYMS.get(leaf)):
        same = [key for key in keys if key[-1] == name and key != path]
        if same:
            shallowest = min(map(len, same))
            return sorted((key for key in same if len(key) == shallowest), key=lambda key: key[:1] != path[:1])[:3]
    nearby = close(leaf, (str(key[-1]) for key in beside))
    if nearby:
        return [key for key in beside if key[-1] == nearby]
    elsewhere = get_close_matches(leaf, {str(key[-1]) for key in keys}, n=1, cutoff=0.8)
    return [key for key in keys if key[-1] in elsewhere][:3]
