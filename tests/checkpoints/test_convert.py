"""Exports that other tools read: the same logits from transformers, a .pth file that holds no code."""

import json
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from dreamlm.checkpoints.convert.legacy import LEGACY_NAME, export_pth, import_pth, import_run
from dreamlm.checkpoints.convert.llama import export
from dreamlm.checkpoints.manifest import Record
from dreamlm.checkpoints.snapshot import Snapshot, read_snapshot, write_snapshot
from dreamlm.checkpoints.store import Store
from dreamlm.core.errors import CheckpointError, UserMistake
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.tokenizer import BytePair, Tokenizer
from dreamlm.wiring.saver import transformers_config


def build(**settings: Any) -> DreamLM:
    torch.manual_seed(3)
    sizes = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "seq_length": 16}
    model = DreamLM.Config.model_validate(sizes | settings).build(258).eval()
    with torch.no_grad():  # so that a norm weight in the wrong place shows
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


def save(run: Path, model: DreamLM, tensors: dict[str, Tensor] | None = None, **config: Any) -> Path:
    tokenizer = SimpleNamespace(end_of_document_id=1, padding_id=2, vocab_size=258)
    one = Snapshot(
        tensors or dict(model.named_parameters()),
        {"moment": torch.zeros(3)},
        {"step": 4, "loss": 0.1 + 0.2},
        {**transformers_config(model, tokenizer), **config},  # type: ignore[arg-type]
        {"name": "tiny"},
        {"tokenizer.json": b"{}", "tokenizer_config.json": b"{}"},
    )
    return Store(run).commit(Record(4, 40, True), lambda folder: write_snapshot(folder, one), expected_bytes=0)


def logits(model: DreamLM, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        signal = model(tokens, torch.zeros_like(tokens), model.start(tokens.shape[0]), boundaries=False)
        return model.logits(signal.hidden)


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("head_dim", [None, 12])
@pytest.mark.parametrize(("qk_norm", "kind"), [(False, "LlamaForCausalLM"), (True, "Qwen3ForCausalLM")])
def test_transformers_computes_the_same_logits_from_the_exported_folder(
    tmp_path: Path, qk_norm: bool, kind: str, tied: bool, head_dim: int | None
) -> None:
    from transformers import AutoModelForCausalLM

    positions = {"type": "rope", "theta": 500.0}
    model = build(qk_norm=qk_norm, tie_embeddings=tied, positions=positions, norm_epsilon=1e-3, head_dim=head_dim)
    exported = export(save(tmp_path, model), tmp_path / "stock")
    assert exported.architecture == kind
    assert exported.parameters == sum(parameter.numel() for parameter in model.parameters())
    peer = AutoModelForCausalLM.from_pretrained(tmp_path / "stock", trust_remote_code=False).eval()
    assert type(peer).__name__ == kind
    tokens = torch.randint(0, 258, (3, 16), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        torch.testing.assert_close(peer(tokens).logits, logits(model, tokens), atol=1e-5, rtol=1e-5)
    assert (peer.generation_config.eos_token_id, peer.generation_config.pad_token_id) == (1, 2)


def test_a_mask_vector_serves_training_only_and_is_left_out(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = build(mask_vector=True)
    exported = export(save(tmp_path, model), tmp_path / "stock")
    assert exported.parameters == sum(parameter.numel() for parameter in model.parameters()) - 32
    peer = AutoModelForCausalLM.from_pretrained(tmp_path / "stock", trust_remote_code=False).eval()
    tokens = torch.randint(0, 258, (3, 16), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        torch.testing.assert_close(peer(tokens).logits, logits(model, tokens), atol=1e-5, rtol=1e-5)


def test_the_exported_tokenizer_files_are_those_of_the_snapshot(tmp_path: Path) -> None:
    snapshot = save(tmp_path, build())
    export(snapshot, tmp_path / "stock")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "stock" / name).read_bytes() == (snapshot / name).read_bytes()


def test_weights_in_bf16_stay_bf16(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = build().bfloat16()
    export(save(tmp_path, model), tmp_path / "stock")
    peer = AutoModelForCausalLM.from_pretrained(tmp_path / "stock")
    assert peer.dtype == torch.bfloat16
    assert torch.equal(peer.model.norm.weight, model.norm.weight)


@pytest.mark.parametrize(
    ("settings", "config", "feature"),
    [
        ({"positions": "learned"}, {}, "positions learned"),
        ({"attention_activation": "sparsemax"}, {}, "attention_activation sparsemax"),
        ({"feed_forward": "moe"}, {}, "feed_forward moe"),
        ({"logit_soft_cap": 30.0}, {}, "logit_soft_cap"),
        ({}, {"modules": [{"type": "dreams"}]}, "modules"),
        ({}, {"vision": {"type": "lite"}}, "vision"),
        ({}, {"sliding_window": 4}, "sliding_window"),
        ({"attention_gate": True, "qk_norm": False}, {}, "attention_gate without qk_norm"),
    ],
)
def test_what_no_stock_architecture_expresses_is_refused_by_name(
    tmp_path: Path, settings: dict[str, Any], config: dict[str, Any], feature: str
) -> None:
    snapshot = save(tmp_path, build(**settings), **config)
    with pytest.raises(UserMistake, match=f"none of Llama, Qwen3 and Qwen3Next can express this model's {feature}"):
        export(snapshot, tmp_path / "stock")
    assert not (tmp_path / "stock").exists()


def test_a_tensor_without_a_place_is_refused_by_name(tmp_path: Path) -> None:
    model = build()
    snapshot = save(tmp_path, model, {**dict(model.named_parameters()), "layers.0.dream.gate": torch.zeros(2)})
    with pytest.raises(UserMistake, match=r"a place for the tensors layers\.0\.dream\.gate"):
        export(snapshot, tmp_path / "stock")


def test_the_tokenizer_gives_nothing_that_a_stock_model_does_not_take(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    Tokenizer.train(BytePair(vocab_size=300), ["the cat sat"] * 3).save(tmp_path)
    assert set(AutoTokenizer.from_pretrained(tmp_path)("the cat")) == {"input_ids", "attention_mask"}
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["model_input_names"] == [
        "input_ids",
        "attention_mask",
    ]


def test_an_export_never_writes_into_a_folder_with_files(tmp_path: Path) -> None:
    snapshot = save(tmp_path, build())
    before = sorted(snapshot.iterdir())
    with pytest.raises(UserMistake, match="a new or an empty folder"):
        export(snapshot, snapshot)
    assert sorted(snapshot.iterdir()) == before


def test_an_export_that_fails_half_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = save(tmp_path / "run", build())

    def fail(*arguments: object) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr("shutil.copyfile", fail)
    monkeypatch.setattr("torch.save", fail)
    for start in (lambda: export(snapshot, tmp_path / "stock"), lambda: export_pth(snapshot, tmp_path / "x.pth")):
        with pytest.raises(OSError, match="the disk is gone"):
            start()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_an_export_fills_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "stock").mkdir()
    exported = export(save(tmp_path, build()), tmp_path / "stock")
    assert (tmp_path / "stock" / "model.safetensors").stat().st_size == exported.size_bytes


def test_an_export_fills_the_folder_that_one_stands_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stock").mkdir()
    (tmp_path / "link").symlink_to("stock")
    snapshot = save(tmp_path, build())
    export(snapshot, tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "stock" / "config.json").exists()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    export(snapshot, Path())
    assert (tmp_path / "here" / "config.json").exists()


def test_a_folder_of_another_tool_is_told_what_it_lacks(tmp_path: Path) -> None:
    snapshot = save(tmp_path, build(), model_type="gpt2")
    with pytest.raises(CheckpointError, match="it has model_type gpt2"):
        export(snapshot, tmp_path / "stock")


def test_a_damaged_snapshot_is_not_exported(tmp_path: Path) -> None:
    snapshot = save(tmp_path, build())
    (snapshot / "state.json").unlink()
    for run in (lambda: export(snapshot, tmp_path / "stock"), lambda: export_pth(snapshot, tmp_path / "x.pth")):
        with pytest.raises(CheckpointError, match=r"state\.json is missing"):
            run()


def test_a_legacy_file_brings_model_and_values_back_exactly(tmp_path: Path) -> None:
    snapshot = save(tmp_path / "run", build())
    file = export_pth(snapshot, tmp_path)
    assert file == tmp_path / LEGACY_NAME
    back, original = import_pth(file), read_snapshot(snapshot)
    assert back.model.keys() == original.model.keys()
    assert all(torch.equal(back.model[name], tensor) for name, tensor in original.model.items())
    assert (back.state, back.config, back.preset) == (original.state, original.config, original.preset)
    assert back.tokenizer_files == original.tokenizer_files
    assert back.optimizer == {}


def test_a_legacy_file_never_chooses_where_it_is_written(tmp_path: Path) -> None:
    file = export_pth(save(tmp_path / "run", build()), tmp_path)
    content = torch.load(file, weights_only=True)
    content["tokenizer_files"]["../outside.json"] = "{}"
    torch.save(content, file)
    with pytest.raises(CheckpointError, match=r"other tokenizer files than dreamlm writes: \.\./outside\.json"):
        import_pth(file)


@pytest.mark.parametrize(
    ("part", "value", "lacking"),
    [
        ("state", {}, "a number as state.step, a number as state.tokens"),
        ("state", {"step": None, "tokens": 3}, "a number as state.step"),
        ("model_state_dict", {"norm": [1.0]}, "a tensor as norm"),
    ],
)
def test_no_run_is_made_of_half_a_legacy_file(tmp_path: Path, part: str, value: Any, lacking: str) -> None:
    file = export_pth(save(tmp_path / "run", build()), tmp_path)
    torch.save({**torch.load(file, weights_only=True), part: value}, file)
    with pytest.raises(CheckpointError, match=f"{LEGACY_NAME} lacks {lacking}: it is not a file that dreamlm exported"):
        import_run(file, tmp_path / "another")
    assert not (tmp_path / "another").exists()
    with pytest.raises(UserMistake, match="this is a folder"):
        import_run(tmp_path, tmp_path / "another")


def test_a_legacy_export_replaces_no_file(tmp_path: Path) -> None:
    snapshot = save(tmp_path / "run", build())
    export_pth(snapshot, tmp_path)
    with pytest.raises(UserMistake, match="is there already"):
        export_pth(snapshot, tmp_path)


class Payload:
    """Unpickling it would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("write", [torch.save, lambda value, file: file.write_bytes(pickle.dumps(value, protocol=2))])
def test_a_file_that_would_run_code_is_refused_and_runs_none(tmp_path: Path, write: Any) -> None:
    write({"model_state_dict": Payload(tmp_path / "owned")}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match="or it is damaged; it was not loaded"):
        import_pth(tmp_path / "evil.pth")
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"no torch file at all"])
def test_a_damaged_legacy_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"bad\.pth"):
        import_pth(tmp_path / "bad.pth")


def test_a_legacy_file_of_another_layout_says_what_is_missing(tmp_path: Path) -> None:
    torch.save({"model_state_dict": {}, "config": {}}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="lacks preset, state, tokenizer_files"):
        import_pth(tmp_path / "other.pth")


def test_config_json_of_a_snapshot_is_readable_text(tmp_path: Path) -> None:
    config = json.loads((save(tmp_path, build()) / "config.json").read_text())
    assert (config["model_type"], config["vocab_size"], config["eos_token_id"]) == ("dreamlm", 258, 1)
