"""Tensors and JSON come back exactly, from files that other tools read."""

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from dreamlm.checkpoints.manifest import Record, digest_file
from dreamlm.checkpoints.snapshot import DTYPE_NAMES, Snapshot, read_snapshot, write_snapshot
from dreamlm.checkpoints.store import Store
from dreamlm.checkpoints.tensors import read_header
from dreamlm.checkpoints.verification import verify
from dreamlm.core.errors import CheckpointError


def snapshot(model: dict[str, Tensor] | None = None, **parts: object) -> Snapshot:
    values: dict[str, object] = {
        "model": model or {"weight": torch.arange(6.0).reshape(2, 3)},
        "optimizer": {"weight.exp_avg": torch.ones(2, 3), "weight.step": torch.tensor(7)},
        "state": {"step": 7},
        "config": {"model_type": "dreamlm"},
        "preset": {"name": "tiny"},
        "tokenizer_files": {"tokenizer.json": b'{"a": "\xc3\xa9"}', "tokenizer_config.json": b"{}"},
    }
    return Snapshot(**values | parts)  # type: ignore[arg-type]


def commit_and_read(run: Path, one: Snapshot) -> Snapshot:
    folder = Store(run).commit(
        Record(7, 70, True), lambda folder: write_snapshot(folder, one), expected_bytes=one.size_bytes
    )
    return read_snapshot(folder)


@pytest.mark.parametrize("dtype", DTYPE_NAMES, ids=str)
def test_tensors_of_every_type_come_back_bit_for_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    patterns = torch.arange(256, dtype=torch.uint8).repeat(2).view(-1, 8)
    bits = patterns.clamp(max=1) if dtype == torch.bool else patterns
    tensors = {"some": bits.view(dtype), "none": torch.empty(0, 4, dtype=dtype), "one": bits.view(dtype).flatten()[9]}
    back = commit_and_read(tmp_path, snapshot(tensors)).model
    assert {name: (one.dtype, one.shape) for name, one in back.items()} == {
        name: (one.dtype, one.shape) for name, one in tensors.items()
    }
    for name, tensor in tensors.items():
        assert torch.equal(back[name].reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8))


def test_the_safetensors_library_reads_and_would_write_the_same_file(tmp_path: Path) -> None:
    tensors = {
        "b.half": torch.randn(3, 5).bfloat16(),
        "a.wide": torch.randn(4, dtype=torch.float64),
        "é": torch.randn(7),
        "flag": torch.tensor([True, False, True]),
        "transposed": torch.randn(3, 2).t(),
    }
    write_snapshot(tmp_path, snapshot(tensors))
    ours = tmp_path / "model.safetensors"
    back = load_file(ours)
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in tensors.items())
    save_file({name: one.contiguous() for name, one in tensors.items()}, tmp_path / "theirs", {"format": "pt"})
    theirs = read_header(tmp_path / "theirs").entries
    sizes = {"F64": 8, "F32": 4, "BF16": 2, "BOOL": 1}
    for entry in read_header(ours).entries.values():
        assert entry.start % sizes[entry.dtype] == 0
    assert {n: (e.dtype, e.shape) for n, e in read_header(ours).entries.items()} == {
        n: (e.dtype, e.shape) for n, e in theirs.items()
    }


def test_the_digests_of_writing_are_those_of_reading(tmp_path: Path) -> None:
    digests = write_snapshot(tmp_path, snapshot({"large": torch.randn(3, 1 << 21), "small": torch.ones(1)}))
    assert digests == {path.name: digest_file(path) for path in tmp_path.iterdir()}


FLOATS = st.floats(allow_nan=False)


@settings(max_examples=25)
@given(st.recursive(FLOATS | st.integers() | st.text() | st.none() | st.booleans(), lambda v: st.lists(v)))
def test_state_values_round_trip_exactly(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    folder = tmp_path_factory.mktemp("snapshot")
    write_snapshot(folder, snapshot(state={"value": value}))
    back = json.loads((folder / "state.json").read_text(encoding="utf-8"))["value"]
    assert repr(back) == repr(value)


def test_everything_beside_tensors_comes_back(tmp_path: Path) -> None:
    one = snapshot(state={"loss": 0.1 + 0.2, "worst": math.inf})
    back = commit_and_read(tmp_path, one)
    assert (back.state, back.config, back.preset) == (one.state, one.config, one.preset)
    assert back.tokenizer_files == one.tokenizer_files


def test_a_flipped_bit_in_a_tensor_is_never_loaded(tmp_path: Path) -> None:
    commit_and_read(tmp_path, snapshot())
    path = tmp_path / "checkpoints" / "lm_current" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors differs from what was saved"):
        read_snapshot(path.parent)


def test_reading_while_another_process_rotates_never_mixes_two_snapshots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit_and_read(tmp_path, snapshot({"w": torch.zeros(2)}, state={"step": 0}))
    rotations = iter(range(1, 4))

    def verify_then_rotate(folder: Path) -> None:
        verify(folder)
        for step in rotations:
            one = snapshot({"w": torch.full((2,), float(step))}, state={"step": step})
            write = lambda folder: write_snapshot(folder, one)  # noqa: B023, E731
            Store(tmp_path).commit(Record(step, step, True), write, expected_bytes=0)
            break

    monkeypatch.setattr("dreamlm.checkpoints.snapshot.verify", verify_then_rotate)
    back = read_snapshot(tmp_path / "checkpoints" / "lm_current")
    assert (back.state["step"], back.model["w"].tolist()) == (3, [3.0, 3.0])


@pytest.mark.parametrize("tensor", [torch.zeros(2, dtype=torch.complex64), torch.eye(2).to_sparse()], ids=str)
def test_a_tensor_without_a_place_in_the_format_is_named(tmp_path: Path, tensor: Tensor) -> None:
    with pytest.raises(CheckpointError, match="tensor odd"):
        write_snapshot(tmp_path, snapshot({"odd": tensor}))


def test_a_state_that_is_not_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"state.json cannot be written: Object of type set"):
        write_snapshot(tmp_path, snapshot(state={"seen": {1}}))


def test_a_full_disk_while_writing_tensors_is_out_of_space_not_a_library_error(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("needs /dev/full")
    (tmp_path / "model.safetensors").symlink_to(full)
    with pytest.raises(OSError, match="No space left"):
        write_snapshot(tmp_path, snapshot())


def test_heads_have_a_file_of_their_own_where_there_are_any(tmp_path: Path) -> None:
    heads = {"heads.value.weight": torch.arange(3.0)}
    back = commit_and_read(tmp_path / "with", snapshot(heads=heads))
    assert torch.equal(back.heads["heads.value.weight"], heads["heads.value.weight"])
    assert back.model.keys() == {"weight"}
    assert snapshot(heads=heads).size_bytes == snapshot().size_bytes + 3 * 4
    assert commit_and_read(tmp_path / "without", snapshot()).heads == {}
    assert not (tmp_path / "without" / "checkpoints" / "lm_current" / "heads.safetensors").exists()
