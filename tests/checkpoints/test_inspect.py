"""What list, show and diff say, without torch."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from small_snapshots import commit
from torch import Tensor

from dreamlm.checkpoints.inspect import KeyDifference, TensorDifference, describe, diff, listing
from dreamlm.checkpoints.manifest import Record, read_manifest
from dreamlm.checkpoints.snapshot import Snapshot, write_snapshot
from dreamlm.checkpoints.store import Store
from dreamlm.checkpoints.tensors import read_header
from dreamlm.core.errors import CheckpointError, UserMistake


def save(run: Path, model: dict[str, Tensor], state: dict[str, object] | None = None) -> Path:
    one = Snapshot(model, {"m": torch.zeros(2)}, state or {}, {"model_type": "dreamlm"}, {"train": {"lr": 0.1}}, {})
    return Store(run).commit(Record(1, 2, True), lambda folder: write_snapshot(folder, one), expected_bytes=0)


def test_a_listing_gives_roles_and_names_what_is_unusable(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for step, (loss, finite) in enumerate([(1.0, True), (2.0, True), (math.nan, False), (None, False), (None, False)]):
        commit(store, step, loss, finite)
    (store.folder / "lm_prev" / "model.bin").unlink()
    (store.folder / ".incoming").mkdir()
    listed = listing(tmp_path)
    assert [(one.name, one.roles, one.step) for one in listed if not one.problem] == [
        ("lm_current", ("latest",), 4),
        ("lm_prev2", (), 2),
        ("lm_finite", ("last finite",), 1),
        ("lm_best", ("best",), 0),
    ]
    assert {one.name: one.problem for one in listed if one.problem} == {
        "lm_prev": "model.bin is missing",
        ".incoming": "a save or rotation in progress, or an interrupted one: the next start puts it in order",
    }
    json.dumps([asdict(one) for one in listed], allow_nan=False)


def test_a_listing_of_a_folder_without_a_run_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserMistake, match="this run has no snapshots"):
        listing(tmp_path)


def test_a_description_counts_parameters_from_the_header_alone(tmp_path: Path) -> None:
    folder = save(tmp_path, {"w": torch.zeros(3, 4).bfloat16(), "s": torch.tensor(1.0)}, {"step": 1})
    told = describe(folder)
    assert told.parameters == 13
    assert {(one.file, one.name, one.dtype, one.shape) for one in told.tensors} == {
        ("model.safetensors", "w", "BF16", (3, 4)),
        ("model.safetensors", "s", "F32", ()),
        ("optimizer.safetensors", "m", "F32", (2,)),
    }
    assert told.documents["state.json"] == {"step": 1}
    assert told.size_bytes == sum(told.files.values())
    json.dumps(asdict(told), allow_nan=False)


def test_a_snapshot_equals_itself_nan_included(tmp_path: Path) -> None:
    folder = save(tmp_path, {"w": torch.tensor([math.nan, math.inf])}, {"loss": math.nan})
    difference = diff(folder, folder)
    assert difference.equal
    assert difference.tensors_equal == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8])
def test_the_largest_difference_is_that_of_torch(tmp_path: Path, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    a = (torch.randn(3, 5, generator=generator) * 50 + 100).to(dtype)
    b = a.clone()
    b[2, 1] = (b[2, 1].double() + 16).to(dtype)
    expected = (a.double() - b.double()).abs().max().item()
    (one,) = diff(save(tmp_path / "a", {"w": a}), save(tmp_path / "b", {"w": b})).tensors
    assert one.max_abs_difference == expected > 0


def test_a_difference_beyond_the_first_piece_is_found(tmp_path: Path) -> None:
    a = torch.zeros((1 << 20) + 10)
    b = a.clone()
    b[-1] = 0.5
    (one,) = diff(save(tmp_path / "a", {"w": a}), save(tmp_path / "b", {"w": b})).tensors
    assert one.max_abs_difference == 0.5


def test_differing_keys_shapes_types_and_missing_tensors_are_told_apart(tmp_path: Path) -> None:
    a = {"shape": torch.zeros(2), "type": torch.ones(2), "gone": torch.zeros(1), "bad": torch.tensor([math.nan])}
    b = {"shape": torch.zeros(3), "type": torch.ones(2).bfloat16(), "new": torch.zeros(1), "bad": torch.zeros(1)}
    difference = diff(
        save(tmp_path / "a", a, {"step": 1, "cursor": {"drawn": [1, 2]}, "same": 1}),
        save(tmp_path / "b", b, {"step": 1.0, "cursor": {"drawn": [1, 3]}, "extra": None, "same": 1}),
    )
    assert difference.keys == (
        KeyDifference("state.json", "step", "both", 1, 1.0),
        KeyDifference("state.json", "cursor.drawn.1", "both", 2, 3),
        KeyDifference("state.json", "extra", "second", None, None),
    )
    assert set(difference.tensors) == {
        TensorDifference("model.safetensors", "shape", "both", "F32 [2]", "F32 [3]", None),
        TensorDifference("model.safetensors", "type", "both", "F32 [2]", "BF16 [2]", 0.0),
        TensorDifference("model.safetensors", "gone", "first", "F32 [1]", "", None),
        TensorDifference("model.safetensors", "new", "second", "", "F32 [1]", None),
        TensorDifference("model.safetensors", "bad", "both", "F32 [1]", "F32 [1]", None),
    }
    assert difference.tensors_equal == 1
    assert not difference.equal


@pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 64, (2).to_bytes(8, "little") + b"[]"])
def test_a_file_that_is_not_safetensors_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors is not a safetensors file"):
        read_header(tmp_path / "model.safetensors")


@pytest.mark.parametrize("harm", [lambda path: path.write_text("{"), Path.unlink], ids=["cut short", "gone"])
def test_a_document_that_cannot_be_read_is_named(tmp_path: Path, harm: Callable[[Path], object]) -> None:
    snapshot = commit(Store(tmp_path), 1)
    harm(snapshot / "state.json")
    with pytest.raises(CheckpointError, match=r"state\.json cannot be read"):
        describe(snapshot)


@pytest.mark.parametrize("number", ["1e999", "-1e999"])
def test_a_manifest_with_a_number_beyond_all_is_damaged(tmp_path: Path, number: str) -> None:
    snapshot = commit(Store(tmp_path), 1)
    manifest = snapshot / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"sequence": 1', f'"sequence": {number}'))
    with pytest.raises(CheckpointError, match=r"manifest\.json lacks or garbles an entry"):
        read_manifest(snapshot)


def test_a_folder_in_the_place_of_the_manifest_is_set_aside(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for step in (1, 2):
        commit(store, step)
    (store.folder / "lm_current" / "manifest.json").unlink()
    (store.folder / "lm_current" / "manifest.json").mkdir()
    assert store.repair()[0].startswith("lm_current is damaged (lm_current has no manifest.json")


def test_inspecting_and_storing_import_no_torch() -> None:
    code = (
        "import sys, dreamlm.checkpoints.inspect, dreamlm.checkpoints.store, dreamlm.checkpoints.convert.llama\n"
        "sys.exit(', '.join({'torch', 'transformers', 'datasets', 'pydantic'} & sys.modules.keys()) or None)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert (done.stderr, done.returncode) == ("", 0)
