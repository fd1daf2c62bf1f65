"""A carry goes through a file, and a file that does not fit is refused with a reason."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dreamlm.core.errors import CheckpointError, ResumeMismatch, UserMistake
from dreamlm.core.nn.carrying import load_carry, save_carry
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.nn.signal import Carry

VOCAB = 20


def build(**options: object) -> DreamLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "seq_length": 16, "segment_length": 4}
    return DreamLM.Config.model_validate({**sizes, "modules": ["segment_summary"], **options}).build(VOCAB)


def after(model: DreamLM, tokens: int, rows: int = 2) -> Carry:
    ids = torch.arange(rows * tokens).view(rows, tokens) % VOCAB
    with torch.no_grad():
        carry: Carry = model(ids, torch.zeros_like(ids), model.start(rows)).carry
    return carry


def test_a_loaded_carry_saves_to_the_same_bytes(tmp_path: Path) -> None:
    model = build(modules=["segment_summary", "segment_summary"])
    for tokens in (1, 4, 6, 16):
        save_carry(after(model, tokens), tmp_path / "first")
        save_carry(load_carry(model, tmp_path / "first"), tmp_path / "second")
        assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["first", "second"]


def test_states_lie_in_the_file_by_the_names_of_their_layers(tmp_path: Path) -> None:
    save_carry(after(build(), 6), tmp_path / "carry")
    shapes = {name: tuple(tensor.shape) for name, tensor in load_file(tmp_path / "carry").items()}
    assert shapes["layers.1/key"] == (2, 4, 6, 8)
    assert shapes["segment_summary/memory.summary"] == (2, 4, 32)
    assert shapes["documents"] == (2, 6)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"num_layers": 3}, "only the model has layers.2/key"),
        ({"modules": []}, "only the carry has segment_summary/document"),
        ({"num_kv_heads": 2}, r"layers.0/key of the carry is float32 \[2, 4, 6, 8\]"),
        ({"modules": [{"type": "segment_summary", "num_vectors": 2}]}, "segment_summary/memory.summary of the carry"),
        ({"segment_length": 8}, "segment_summary/pending of the carry"),
    ],
)
def test_the_carry_of_another_model_is_refused_by_the_first_difference(
    options: dict[str, object], named: str, tmp_path: Path
) -> None:
    save_carry(after(build(), 6), tmp_path / "carry")
    with pytest.raises(ResumeMismatch, match=named) as caught:
        load_carry(build(**options), tmp_path / "carry")
    assert caught.value.where == str(tmp_path / "carry")
    assert caught.value.valid


@pytest.mark.parametrize(
    ("saved", "loaded"), [(torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16)], ids=str
)
def test_a_carry_of_another_precision_is_refused_with_both(
    saved: torch.dtype, loaded: torch.dtype, tmp_path: Path
) -> None:
    save_carry(after(build().to(saved), 6), tmp_path / "carry")
    theirs, ours = (str(one).removeprefix("torch.") for one in (saved, loaded))
    with pytest.raises(ResumeMismatch, match=rf"layers.0/key of the carry is {theirs} \[2, 4, 6, 8\]") as caught:
        load_carry(build().to(loaded), tmp_path / "carry")
    assert caught.value.valid == (f"{ours} [2, 4, 6, 8]",)


def test_under_autocast_a_carry_has_its_precision_in_the_file_and_behind_it(tmp_path: Path) -> None:
    model = build()
    with torch.autocast("cpu", torch.bfloat16):
        carry = after(model, 6)
        save_carry(carry, tmp_path / "carry")
        loaded = load_carry(model, tmp_path / "carry")
    assert loaded.states["layers.0"].key.dtype == carry.states["layers.0"].key.dtype == torch.bfloat16
    with pytest.raises(ResumeMismatch, match="the carry is bfloat16"):
        load_carry(model, tmp_path / "carry")


def test_what_is_no_carry_is_refused(tmp_path: Path) -> None:
    model, file = build(), tmp_path / "carry"
    with pytest.raises(CheckpointError, match="no such file"):
        load_carry(model, file)
    save_file({"documents": torch.zeros(1)}, file)
    with pytest.raises(CheckpointError, match="damaged, or no carry"):
        load_carry(model, file)
    save_carry(after(model, 6), file)
    whole = file.read_bytes()
    for length in (0, 5, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="damaged, or no carry"):
            load_carry(model, file)


def test_a_carry_without_states_is_not_saved(tmp_path: Path) -> None:
    model = build()
    for carry in (model.start(1), replace(after(model, 4), records=False)):
        with pytest.raises(UserMistake, match="no states"):
            save_carry(carry, tmp_path / "carry")
    assert not list(tmp_path.iterdir())
