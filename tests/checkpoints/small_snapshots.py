"""Small snapshots for the tests: three files whose content names the step."""

import json
from collections.abc import Callable
from pathlib import Path

from dreamlm.checkpoints.manifest import Record
from dreamlm.checkpoints.store import Store

ROOM = 10_000


def writer(step: int, between: Callable[[], None] = lambda: None) -> Callable[[Path], None]:
    """Writes the snapshot of a step; `between` is called before each file."""

    def write(folder: Path) -> None:
        for name in ("model.bin", "state.json", "tokenizer.json"):
            between()
            (folder / name).write_text(json.dumps({"file": name, "step": step}))

    return write


def step_of(folder: Path) -> int:
    """The step that every file of the folder agrees on."""
    steps = {json.loads(path.read_text())["step"] for path in folder.iterdir() if path.name != "manifest.json"}
    assert len(steps) == 1
    return int(steps.pop())


def commit(store: Store, step: int, loss: float | None = None, finite: bool = True) -> Path:
    return store.commit(Record(step, step * 10, finite, loss), writer(step), expected_bytes=ROOM)


def steps(store: Store) -> dict[str, int]:
    """Step of each named snapshot, as its files and its record agree."""
    found = {info.name: info.record.step for info in store.snapshots()}
    assert found == {name: step_of(store.folder / name) for name in found}
    return found
