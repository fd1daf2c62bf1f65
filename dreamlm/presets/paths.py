"""Where a relative path in a preset starts: beside the file that holds it, or, after `--set`, where the command runs.

Paths become absolute as a preset is resolved. A run keeps its resolved preset, so it goes on from any folder.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dreamlm.core.home import expanded
from dreamlm.data_sources.sources.files import is_pattern, pattern_below
from dreamlm.data_sources.sources.huggingface import BUILDERS
from dreamlm.presets.document import KeyPath, parts_of

PLACES = frozenset({"data_files", "dataset", "init_from", "learned_from", "path", "paths"})
"""Keys, of whatever object, that say where something lies."""


def anchored(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The values of a preset with the relative paths in them made to start at `folder`, which is absolute.

    What may be the name of something on the hub as well (`dataset`, the `path` of the tokenizer and of a vision tower,
    `init_from`) is a path when the folder has a folder of that name, or when there is one in the home folder that `~`
    stands for. Values of another form than a preset's stay as they are, for the schema to refuse; so do empty texts.
    """
    values = dict(values)
    data, tokenizer, model, rl = (values.get(section) for section in ("data", "tokenizer", "model", "rl"))
    if isinstance(data, dict) and isinstance(data.get("sources"), list):
        values["data"] = {**data, "sources": [_source(source, folder) for source in data["sources"]]}
    if isinstance(tokenizer, dict) and "path" in tokenizer:
        values["tokenizer"] = {**tokenizer, "path": _folder(tokenizer["path"], folder)}
    if isinstance(model, dict):
        values["model"] = _model(model, folder)
    if isinstance(rl, dict):
        values["rl"] = _rl(rl, folder)
    return values


def empty_places(values: Any, path: KeyPath = (), *, inside: bool = False) -> Iterator[KeyPath]:
    """Where a key that should say where something lies holds an empty text; `inside`: these are such a key's values."""
    if inside and values == "":
        yield path
    for part, inner in parts_of(values):
        yield from empty_places(inner, (*path, part), inside=inside or part in PLACES)


def _model(model: dict[str, Any], folder: Path) -> dict[str, Any]:
    vision = model.get("vision")
    if "init_from" in model:
        model = {**model, "init_from": _folder(model["init_from"], folder)}
    if isinstance(vision, dict) and "path" in vision:
        model = {**model, "vision": {**vision, "path": _folder(vision["path"], folder)}}
    return model


def _rl(rl: dict[str, Any], folder: Path) -> dict[str, Any]:
    rl = rl | {key: _with_source(rl[key], folder) for key in ("pairs", "prompts") if key in rl}
    return {**rl, "learned_from": _folder(rl["learned_from"], folder)} if "learned_from" in rl else rl


def _with_source(section: Any, folder: Path) -> Any:
    if not isinstance(section, dict):
        return section
    return section | {key: _source(section[key], folder) for key in ("source", "held_out") if key in section}


def _source(source: Any, folder: Path) -> Any:
    if not isinstance(source, dict):
        return source
    source = dict(source)
    if "paths" in source:
        source["paths"] = _paths(source["paths"], folder)
    if source.get("dataset") not in BUILDERS:  # then `data_files` start at the data set
        return {**source, "dataset": _folder(source["dataset"], folder)} if "dataset" in source else source
    return {**source, "data_files": _paths(source["data_files"], folder)} if "data_files" in source else source


def _paths(value: Any, folder: Path) -> Any:
    """One path or pattern, a list of them, or lists by name."""
    if isinstance(value, dict):
        return {name: _paths(inner, folder) for name, inner in value.items()}
    if isinstance(value, list):
        return [_paths(inner, folder) for inner in value]
    elsewhere = not isinstance(value, str) or not value or expanded(value) != Path(value) or "://" in value
    return value if elsewhere else _anchored_path(Path(value), folder)


def _anchored_path(path: Path, folder: Path) -> str:
    if path.is_absolute() or not is_pattern(path) or (folder / path).exists():
        return _written_one_way(folder / path)
    end = _end_of_detour(path.parts)
    start = _written_one_way(folder.joinpath(*path.parts[:end]))
    return str(pattern_below(Path(start), Path(*path.parts[end:])))


def _folder(value: Any, folder: Path) -> Any:
    if not isinstance(value, str) or not value:
        return value
    path = folder / expanded(value)
    return _written_one_way(path) if path.is_dir() else value


def _written_one_way(path: Path) -> str:
    """The path without `..`, which leaves the folder that a link before it points to, not the one that holds the link.

    Two ways to write one path are then no difference between two presets.
    """
    parts = path.parts
    end = _end_of_detour(parts)
    return str(Path(*parts[:end]).resolve().joinpath(*parts[end:])) if end else str(path)


def _end_of_detour(parts: Sequence[str]) -> int:
    """How many parts there are up to the last `..`."""
    return len(parts) - parts[::-1].index("..") if ".." in parts else 0
