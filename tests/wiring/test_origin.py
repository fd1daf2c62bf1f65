"""A run that starts from a trained model: the same logits at first, its own weights from then on."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_cache import folder_in_cache
from safetensors.torch import load_file, save_file
from stock_models import save_stock
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer
from workplace import Workplace

import dreamlm
from dreamlm.checkpoints.convert.legacy import LEGACY_NAME, export_pth, import_run
from dreamlm.checkpoints.convert.llama import export
from dreamlm.core import hub
from dreamlm.core.errors import CheckpointError, PresetError, ResumeMismatch, UserMistake
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.tokenizer import Tokenizer
from dreamlm.core.training import sanity
from dreamlm.presets.schema import Preset
from dreamlm.wiring.origin import Origin, completed, initial_model

Trained = Callable[..., Path]


@pytest.fixture
def start(place: Workplace) -> Callable[..., Preset]:
    """The place's preset without a word about the decoder and the tokenizer, but `init_from`."""
    file = place.folder / "small.json"
    values = json.loads(file.read_text())
    del values["tokenizer"]

    def write(origin: Path | str, **model: Any) -> Preset:
        file.write_text(json.dumps(values | {"model": {"init_from": str(origin), **model}}))
        return place.preset()

    return write


Start = Callable[..., Preset]


@torch.no_grad()
def logits(model: DreamLM, tokens: Tensor) -> Tensor:
    signal = model(tokens, torch.zeros_like(tokens), model.start(len(tokens)), boundaries=False)
    return model.logits(signal.hidden)


def random_tokens(vocab_size: int, length: int = 20) -> Tensor:
    return torch.randint(0, vocab_size, (3, length), generator=torch.Generator().manual_seed(4))


LLAMA3 = {
    **{"rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "original_max_position_embeddings": 32},
    **{"high_freq_factor": 4.0, "low_freq_factor": 1.0},
}
YARN = {"rope_type": "yarn", "rope_theta": 500.0, "factor": 2.0, "original_max_position_embeddings": 32}


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"tie_word_embeddings": True, "shard_size": "30KB"},
        {"rope_parameters": YARN},
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 500.0, "factor": 3.0}},
        {"rope_parameters": LLAMA3},
        {"head_dim": 12},
    ],
    ids=["untied", "tied and in shards", "yarn", "linear", "llama3", "wide heads"],
)
def test_a_stock_model_gives_its_logits(tmp_path: Path, start: Start, kind: str, settings: dict[str, Any]) -> None:
    peer = save_stock(tmp_path / "stock", kind, **settings)
    preset = completed(start(tmp_path / "stock"))
    tokenizer = Tokenizer.pretrained(Origin.open(str(tmp_path / "stock")).tokenizer)
    model = initial_model(preset, tokenizer.vocab_size).eval()
    tokens = random_tokens(peer.config.vocab_size, 64)
    with torch.no_grad():
        expected = peer(tokens).logits
    torch.testing.assert_close(logits(model, tokens)[..., : peer.config.vocab_size], expected, atol=1e-5, rtol=1e-5)


def test_its_documents_begin_and_end_with_its_end_token_and_padding_is_added(tmp_path: Path, start: Start) -> None:
    peer = save_stock(tmp_path / "stock")
    tokenizer = Tokenizer.pretrained(Origin.open(str(tmp_path / "stock")).tokenizer)
    assert (tokenizer.end_of_document, tokenizer.padding_id) == ("</s>", peer.config.vocab_size)
    model = initial_model(completed(start(tmp_path / "stock")), tokenizer.vocab_size)
    assert model.vocab_size == peer.config.vocab_size + 1
    rows = peer.model.embed_tokens.weight
    torch.testing.assert_close(model.embedding.weight[-1], rows.mean(dim=0))


def test_a_tokenizer_of_more_tokens_than_the_model_knows_is_told_with_both_numbers(
    tmp_path: Path, start: Start
) -> None:
    known = save_stock(tmp_path / "stock").config.vocab_size
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "stock")
    tokenizer.add_tokens(["<think>", "</think>"])
    tokenizer.save_pretrained(tmp_path / "stock")
    with pytest.raises(UserMistake) as caught:
        completed(start(tmp_path / "stock"))
    assert caught.value.what == (
        f"the tokenizer has {known + 3} tokens, and the model knows {known}: there is no vector for 2, the first of "
        "them '<think>'"
    )
    assert caught.value.where == str(tmp_path / "stock")


def test_training_goes_on_from_it_and_comes_back_as_a_stock_folder(
    place: Workplace, start: Start, tmp_path: Path
) -> None:
    peer = save_stock(tmp_path / "stock", shard_size="30KB")
    start(tmp_path / "stock", seq_length=32)
    run = tmp_path / "run"
    place.train(run)
    loaded = dreamlm.load(run, device="cpu")
    assert loaded.state.step == 6
    assert loaded.preset.model.hidden_size == 32
    assert not torch.equal(loaded.model.norm.weight, peer.model.norm.weight)
    moved = (loaded.model.norm.weight - peer.model.norm.weight).abs().max()
    assert moved < 0.1, "the weights did not start from those of the origin"
    exported = export(loaded.folder, tmp_path / "exported")
    assert exported.architecture == "LlamaForCausalLM"
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "exported")
    tokens = random_tokens(peer.config.vocab_size)
    with torch.no_grad():
        torch.testing.assert_close(again(tokens).logits, logits(loaded.model, tokens), atol=1e-5, rtol=1e-5)


def test_a_gated_run_comes_back_from_its_export_with_its_logits(trained: Trained, start: Start, tmp_path: Path) -> None:
    loaded = dreamlm.load(trained("model.attention_gate=true"), device="cpu")
    assert export(loaded.folder, tmp_path / "exported").architecture == "Qwen3NextForCausalLM"
    preset = completed(start(tmp_path / "exported"))
    assert preset.model.attention_gate
    model = initial_model(preset, loaded.tokenizer.vocab_size).eval()
    tokens = random_tokens(loaded.tokenizer.vocab_size)
    assert torch.equal(logits(model, tokens), logits(loaded.model, tokens))


def test_a_run_that_goes_on_does_not_need_the_origin_again(place: Workplace, start: Start, tmp_path: Path) -> None:
    save_stock(tmp_path / "stock")
    start(tmp_path / "stock", seq_length=32)
    place.train(tmp_path / "run")
    shutil.rmtree(tmp_path / "stock")
    again = place.train(tmp_path / "run", "train.train_tokens=2048")
    assert (again.ends[0].reason, again.ends[0].step) == ("finished", 8)
    assert place.train(tmp_path / "run", "train.train_tokens=2560", preset=False).ends[0].step == 10


def test_nor_does_one_whose_origin_was_named_from_the_current_directory(
    place: Workplace, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save_stock(tmp_path / "models" / "stock")
    start("models/stock", seq_length=32)
    place.train(tmp_path / "run")
    shutil.rmtree(tmp_path / "models")
    assert place.train(tmp_path / "run", "train.train_tokens=2048").ends[0].step == 8


def test_another_origin_is_another_run(place: Workplace, start: Start, tmp_path: Path) -> None:
    save_stock(tmp_path / "stock")
    start(tmp_path / "stock", seq_length=32)
    place.train(tmp_path / "run")
    start(tmp_path / "other", seq_length=32)
    with pytest.raises(ResumeMismatch, match=r"model\.init_from"):
        place.train(tmp_path / "run", "train.train_tokens=2048")


def test_a_run_starts_from_a_run(place: Workplace, trained: Trained, start: Start, tmp_path: Path) -> None:
    before = dreamlm.load(trained(), device="cpu")
    preset = completed(start(tmp_path / "run"))
    assert initial_model(preset, before.tokenizer.vocab_size).state_dict().keys() == before.model.state_dict().keys()
    # A rate of nothing, so that the weights stay what they were.
    place.train(tmp_path / "second", "train.optimizer.learning_rate=1e-30")
    after = dreamlm.load(tmp_path / "second", device="cpu")
    assert after.tokenizer.digest == before.tokenizer.digest
    for name, weight in before.model.state_dict().items():
        torch.testing.assert_close(after.model.state_dict()[name], weight, atol=1e-6, rtol=0)


def test_only_random_weights_must_have_a_loss_that_falls_at_once(
    place: Workplace, trained: Trained, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked = []
    monkeypatch.setattr(sanity, "EARLY_STEPS", 3)
    monkeypatch.setattr(sanity, "check_loss_falls", checked.append)
    run = trained()
    assert len(checked) == 1
    start(run)
    place.train(tmp_path / "second")
    assert len(checked) == 1


def test_a_longer_window_extends_the_model(trained: Trained, start: Start, tmp_path: Path) -> None:
    before = dreamlm.load(trained(), device="cpu", extend_max_seq_len=64)
    preset = completed(start(tmp_path / "run", seq_length=64))
    model = initial_model(preset, before.tokenizer.vocab_size).eval()
    assert preset.model.positions == before.preset.model.positions
    tokens = random_tokens(before.model.vocab_size, 64)
    assert torch.equal(logits(model, tokens), logits(before.model, tokens))


def test_a_longer_table_of_positions_is_stretched_and_a_shorter_one_refused(
    trained: Trained, start: Start, tmp_path: Path
) -> None:
    run = trained("model.positions=learned")
    assert initial_model(completed(start(run, seq_length=64)), 300).max_positions == 64
    with pytest.raises(PresetError, match=r"model\.seq_length: is 16 here, but .* learned 32 positions"):
        completed(start(run, seq_length=16))


def test_blocks_of_a_diffusion_model_stay_what_they_were(trained: Trained, start: Start) -> None:
    run = trained("model.diffusion=block_diffusion")
    for model in ({}, {"seq_length": 64}, {"seq_length": 128, "segment_length": 64}, {"diffusion": {"block_size": 32}}):
        preset = completed(start(run, **model))
        assert preset.model.block == 32
        assert initial_model(preset, 300).config.block == 32
    for size in (16, None):
        with pytest.raises(PresetError, match=rf"block_size: is {size} here, 32 in the model to start from"):
            completed(start(run, segment_length=16, diffusion={"block_size": size}))
    with pytest.raises(PresetError, match=r"model.diffusion: is None here, \{'type': 'block_diffusion'"):
        completed(start(run, diffusion=None))
    with pytest.raises(PresetError, match="block_size 32 must divide the segment of 16 tokens"):
        completed(start(run, seq_length=16))


def test_modules_may_be_added_and_begin_fresh(trained: Trained, start: Start) -> None:
    modules = {"segment_length": 8, "modules": [{"type": "segment_summary"}]}
    run = trained()
    preset = completed(start(run, **modules))
    before = dreamlm.load(run, device="cpu")
    model = initial_model(preset, before.tokenizer.vocab_size)
    assert len(model.cognition) == 1
    assert all(torch.equal(model.state_dict()[name], weight) for name, weight in before.model.state_dict().items())


def test_a_model_of_text_may_get_eyes_and_begins_to_see_with_fresh_ones(trained: Trained, start: Start) -> None:
    run = trained()
    preset = completed(start(run, vision={"type": "lite", "image_size": 16, "num_prefix_tokens": 2}))
    before = dreamlm.load(run, device="cpu")
    model = initial_model(preset, before.tokenizer.vocab_size)
    assert model.config.image_form is not None
    assert all(torch.equal(model.state_dict()[name], weight) for name, weight in before.model.state_dict().items())


def test_pictures_are_not_disturbed_for_a_model_to_start_from_that_takes_none(
    place: Workplace, trained: Trained, start: Start
) -> None:
    start(trained())
    asked = place.preset("train.picture_augmentation={}")
    with pytest.raises(PresetError, match=r"train\.picture_augmentation: disturbs pictures, which this model does not"):
        completed(asked)


def test_what_the_preset_says_otherwise_is_told_all_at_once(tmp_path: Path, start: Start) -> None:
    save_stock(tmp_path / "stock")
    agreeing = {"hidden_size": 32, "num_kv_heads": 2, "positions": "rope", "feed_forward": "swiglu"}
    completed(start(tmp_path / "stock", **agreeing))
    with pytest.raises(PresetError) as caught:
        completed(start(tmp_path / "stock", hidden_size=64, num_heads=8, positions={"type": "rope", "theta": 9.0}))
    assert [(mistake.key, mistake.message) for mistake in caught.value.mistakes] == [
        ("model.hidden_size", "is 64 here, 32 in the model to start from"),
        ("model.num_heads", "is 8 here, 4 in the model to start from"),
        ("model.positions.theta", "is 9.0 here, 500.0 in the model to start from"),
    ]


def test_another_tokenizer_than_its_own_is_a_mistake(place: Workplace, tmp_path: Path, start: Start) -> None:
    for name in ("stock", "copy"):
        save_stock(tmp_path / name)
    save_stock(tmp_path / "other", text="an entirely different text about tea and biscuits")
    start(tmp_path / "stock")

    def with_tokenizer(name: str) -> Preset:
        return completed(place.preset(f'tokenizer={{"type": "pretrained", "path": "{tmp_path / name}"}}'))

    assert with_tokenizer("copy").model.hidden_size == 32
    with pytest.raises(PresetError, match=r"tokenizer\.path: is that of .*other here"):
        with_tokenizer("other")
    with pytest.raises(PresetError, match="tokenizer: is learned anew here"):
        completed(place.preset("tokenizer=bpe"))


@pytest.mark.parametrize(
    ("stock", "own"),
    [
        ("model.layers.1.mlp.up_proj.weight", r"layers\.1\.feed_forward\.up\.weight"),
        ("model.embed_tokens.weight", r"embedding\.weight"),
    ],
)
@pytest.mark.parametrize("harm", ["missing", "of another shape"])
def test_a_weight_that_is_not_as_configured_is_never_left_to_chance(
    tmp_path: Path, start: Start, stock: str, own: str, harm: str
) -> None:
    save_stock(tmp_path / "stock")
    file = tmp_path / "stock" / "model.safetensors"
    weights = load_file(file)
    weight = weights.pop(stock)
    if harm == "of another shape":
        weights[stock] = weight[:, 1:].contiguous()
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(CheckpointError, match=f"not those of their configuration: {own}") as caught:
        completed(start(tmp_path / "stock"))
    assert "must be of one model" in caught.value.hint


def test_a_stored_head_that_is_not_the_embedding_it_is_tied_to_is_told_before_anything_is_prepared(
    tmp_path: Path, start: Start
) -> None:
    save_stock(tmp_path / "stock", shard_size="30KB")
    config = json.loads((tmp_path / "stock" / "config.json").read_text())
    (tmp_path / "stock" / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    with pytest.raises(CheckpointError, match=r"head\.weight is another than embedding\.weight"):
        completed(start(tmp_path / "stock"))
    shards = {name: file for file in (tmp_path / "stock").glob("*.safetensors") for name in load_file(file)}
    table = load_file(shards["model.embed_tokens.weight"])["model.embed_tokens.weight"]
    assert shards["lm_head.weight"] != shards["model.embed_tokens.weight"]
    weights = load_file(shards["lm_head.weight"]) | {"lm_head.weight": table}
    save_file(weights, shards["lm_head.weight"], {"format": "pt"})
    assert completed(start(tmp_path / "stock")).model.tie_embeddings


@pytest.mark.parametrize("harm", ["cut", "no tensors", "missing"])
def test_damaged_weights_are_told_before_anything_is_prepared(
    place: Workplace, tmp_path: Path, start: Start, harm: str
) -> None:
    save_stock(tmp_path / "stock", shard_size="30KB")
    file = sorted((tmp_path / "stock").glob("*.safetensors"))[-1]
    content = file.read_bytes()
    if harm == "missing":
        file.unlink()
    else:
        file.write_bytes(content[:-8] if harm == "cut" else b"<html>not found</html>")
    start(tmp_path / "stock", seq_length=32)
    with pytest.raises(CheckpointError, match="the weights cannot be read: model-") as caught:
        place.train(tmp_path / "run")
    assert "copy the folder of the model again" in caught.value.hint
    assert caught.value.where == str(file)
    assert not (tmp_path / "home").exists()


def test_weights_that_change_after_they_were_looked_at_are_never_left_to_chance(tmp_path: Path, start: Start) -> None:
    save_stock(tmp_path / "stock")
    preset = completed(start(tmp_path / "stock"))
    file = tmp_path / "stock" / "model.safetensors"
    weights = load_file(file)
    del weights["model.norm.weight"]
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"not those of their configuration: norm\.weight"):
        initial_model(preset, 300)


def test_weights_in_half_precision_are_taken_over_exactly(tmp_path: Path, start: Start) -> None:
    save_stock(tmp_path / "stock", dtype=torch.bfloat16)
    stored = load_file(tmp_path / "stock" / "model.safetensors")["model.norm.weight"]
    model = initial_model(completed(start(tmp_path / "stock")), 300)
    assert (stored.dtype, model.norm.weight.dtype) == (torch.bfloat16, torch.float32)
    assert torch.equal(model.norm.weight, stored.float())


def test_a_place_without_a_model_is_explained(tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "old.pth").write_bytes(b"")
    for name, what in (("gone", "no such folder"), ("empty", "no model of transformers"), ("old.pth", "is a folder")):
        with pytest.raises(UserMistake, match=what):
            Origin.open(str(tmp_path / name))

    def unknown(model_id: str, **options: Any) -> str:
        raise FileNotFoundError(f"there is no {model_id}")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unknown)
    monkeypatch.setattr(hub, "check_network", lambda: None)
    with pytest.raises(UserMistake, match="no model to start from could be read: there is no some/model") as caught:
        Origin.open("some/model")
    assert caught.value.hint == "give a folder on this machine, or a model id of the hub"


def test_a_model_of_the_hub_is_named_by_its_id_wherever_its_files_lie(
    tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_stock(folder_in_cache("some/model", tmp_path, monkeypatch))
    preset = completed(start("some/model"))
    assert (preset.model.hidden_size, preset.model.init_from) == (32, "some/model")
    assert preset.tokenizer.model_dump() == {"type": "pretrained", "path": "some/model", "revision": None}


def test_a_legacy_file_becomes_a_run_to_start_from_but_not_to_go_on_with(
    place: Workplace, trained: Trained, start: Start, tmp_path: Path
) -> None:
    before = dreamlm.load(trained(), device="cpu")
    again = tmp_path / "again"
    snapshot = import_run(export_pth(before.folder, tmp_path), again)
    after = dreamlm.load(again, device="cpu")
    assert (after.folder, after.state, after.tokenizer.digest) == (snapshot, before.state, before.tokenizer.digest)
    assert all(torch.equal(*pair) for pair in zip(after.model.parameters(), before.model.parameters(), strict=True))
    with pytest.raises(UserMistake, match="has snapshots already"):
        import_run(tmp_path / LEGACY_NAME, again)
    with pytest.raises(UserMistake, match="holds no optimizer state") as caught:
        place.train(again, "train.train_tokens=2048", preset=False)
    assert f"model.init_from={again}" in caught.value.hint
    model = initial_model(completed(start(again)), before.tokenizer.vocab_size)
    assert torch.equal(model.norm.weight, before.model.norm.weight)
