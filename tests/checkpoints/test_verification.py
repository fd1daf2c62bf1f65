"""Damage of every kind is found, and the text names the file and what to do."""

from pathlib import Path

import pytest
from small_snapshots import commit

from dreamlm.checkpoints.store import Store
from dreamlm.checkpoints.verification import examine, verify
from dreamlm.core.errors import CheckpointError


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    return commit(Store(tmp_path), 1)


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        verify(folder)
    return str(caught.value)


ELSEWHERE = "help: move this folder away: the next start goes on from the newest snapshot that is left"


def test_an_untouched_snapshot_is_intact(snapshot: Path) -> None:
    verification = verify(snapshot)
    assert (verification.files, verification.intact) == (3, True)
    assert verification.size_bytes == sum(p.stat().st_size for p in snapshot.iterdir() if p.name != "manifest.json")


@pytest.mark.parametrize("position", [0, 7, -1])
def test_one_flipped_bit_is_found(snapshot: Path, position: int) -> None:
    content = bytearray((snapshot / "model.bin").read_bytes())
    content[position] ^= 1
    (snapshot / "model.bin").write_bytes(content)
    assert refusal(snapshot) == (
        "lm_current is not what was saved:\n  model.bin differs from what was saved (sha256)\n"
        f"at: {snapshot}\n{ELSEWHERE}"
    )


def test_a_missing_file_is_named(snapshot: Path) -> None:
    (snapshot / "state.json").unlink()
    assert refusal(snapshot) == (
        f"lm_current is not what was saved:\n  state.json is missing\nat: {snapshot}\n{ELSEWHERE}"
    )


def test_a_shortened_file_is_named_with_both_sizes(snapshot: Path) -> None:
    size = (snapshot / "model.bin").stat().st_size
    (snapshot / "model.bin").write_bytes(b"12")
    assert f"model.bin has 2 bytes instead of {size}" in refusal(snapshot)


def test_an_extra_file_is_named_and_does_not_condemn_the_snapshot(snapshot: Path) -> None:
    (snapshot / "inner").mkdir()
    (snapshot / "inner" / "notes.txt").write_text("mine")
    assert refusal(snapshot) == (
        f"lm_current is not what was saved:\n  inner/notes.txt is not part of the snapshot\nat: {snapshot}\n"
        "help: move what does not belong there out of the snapshot; the snapshot itself is complete"
    )


def test_a_manifest_cut_anywhere_is_no_manifest(snapshot: Path) -> None:
    content = (snapshot / "manifest.json").read_bytes()
    for length in range(0, len(content) - 2, 7):
        (snapshot / "manifest.json").write_bytes(content[:length])
        (damage,) = examine(snapshot).damages
        assert (damage.file, damage.kind) == ("manifest.json", "manifest")
    assert "lm_current/manifest.json is not valid JSON" in refusal(snapshot)


def test_every_flipped_byte_of_a_manifest_is_found(snapshot: Path) -> None:
    content = (snapshot / "manifest.json").read_bytes()
    for position in range(len(content)):
        if content[position : position + 1].isspace():
            continue  # layout between values carries nothing
        flipped = bytearray(content)
        flipped[position] ^= 1
        (snapshot / "manifest.json").write_bytes(flipped)
        assert not examine(snapshot).intact


def test_all_damages_are_listed_at_once(snapshot: Path) -> None:
    (snapshot / "state.json").unlink()
    (snapshot / "model.bin").write_bytes((snapshot / "model.bin").read_bytes()[::-1])
    (snapshot / "notes.txt").write_text("mine")
    assert [damage.kind for damage in examine(snapshot).damages] == ["missing", "extra", "content"]


def test_a_folder_that_is_no_snapshot_is_told_from_one_that_is_not_there(tmp_path: Path) -> None:
    assert "has no manifest.json: it is not a snapshot" in refusal(tmp_path)
    assert "nowhere does not exist" in refusal(tmp_path / "nowhere")
