"""A model that sees, from pictures in a folder to a caption, through the commands themselves."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hub_cache import folder_in_cache
from seeing_runs import PRESET, with_vision, write_lines, write_pictures, write_tower
from terminal import Terminal
from transformers import AutoModelForCausalLM, CLIPConfig, CLIPModel, CLIPVisionModel

from dreamlm.checkpoints.convert.llama import export
from dreamlm.checkpoints.snapshot import read_snapshot
from dreamlm.cli.app import run as dreamlm
from dreamlm.core.errors import UserMistake
from dreamlm.core.nn.vision.clip import MEAN, Clip
from dreamlm.wiring.loading import load, snapshot_folder


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DREAMLM_HOME", str(tmp_path / "home"))
    write_pictures(tmp_path / "pictures")
    Path("seeing.json").write_text(json.dumps(PRESET))
    return tmp_path


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = dreamlm(arguments)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_run_learns_from_pictures_goes_on_exactly_and_is_used(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = ("train", "--preset", "seeing.json", "--run", "whole")
    assert call(capsys, *whole)[0] == 0
    steps = [json.loads(line) for line in Path("whole/metrics.jsonl").read_text().splitlines()]
    compared = [step["objectives"]["contrastive"] for step in steps if "objectives" in step]
    assert compared[-1] < compared[0]
    parts = ("train", "--preset", "seeing.json", "--run", "parts")
    assert call(capsys, *parts, "--set", "train.train_tokens=1000")[0] == 0
    assert call(capsys, "train", "--run", "parts", "--set", "train.train_tokens=2000")[0] == 0
    one, other = (read_snapshot(snapshot_folder(Path(run))) for run in ("whole", "parts"))
    assert [name for name, weight in one.model.items() if not torch.equal(weight, other.model[name])] == []
    code, out, err = call(capsys, "eval", "--run", "whole", "--retrieval", "--json")
    assert code == 0, err
    found = json.loads(out)["retrieval"]
    assert found["pairs"] == len(found["ranks"]) > 4
    assert found["figures"]["picture_to_text_recall_10"]["value"] is not None
    _writes(capsys)
    _streams_to_a_terminal(capsys, monkeypatch)
    _is_read_by_transformers("whole")
    with pytest.raises(UserMistake, match="can express this model's vision"):
        export(snapshot_folder(Path("whole")), Path("exported"))


def _writes(capsys: pytest.CaptureFixture[str]) -> None:
    write = ("generate", "--run", "whole", "--image", "pictures/red12.png", "--image", "pictures/blue20.png")
    code, out, err = call(capsys, *write, "--json")
    assert code == 0, err
    texts = [json.loads(line) for line in out.splitlines()]
    assert [text["image"] for text in texts] == ["pictures/red12.png", "pictures/blue20.png"]
    assert [text["prompt"] for text in call_json(capsys, *write, "A")] == ["A", "A"]
    assert [text["prompt"] for text in call_json(capsys, *write, "A", "The")] == ["A", "The"]
    code, _, err = call(capsys, *write, "A", "The", "One")
    assert (code, "3 prompts cannot be shared among 2 pictures" in err) == (2, True)
    code, _, err = call(capsys, "generate", "--run", "whole", "--image", "nothing.png")
    assert (code, err) == (2, "error: there is no such file\nat: --image nothing.png\n")


def _streams_to_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for words in ([], ["A"]):
        write = ("generate", "--run", "whole", "--image", "pictures/red12.png", *words)
        [text] = call_json(capsys, *write)
        terminal = Terminal()
        with monkeypatch.context() as patch:
            patch.setattr("sys.stdout", terminal)
            assert dreamlm(write) == 0
        assert terminal.pieces[0] == f"pictures/red12.png: {text['prompt']}"
        assert len([piece for piece in terminal.pieces[1:] if piece.strip()]) > 1
        assert terminal.getvalue() == f"pictures/red12.png: {text['prompt']}{text['text']}\n"
        assert call(capsys, *write)[1] == terminal.getvalue()


def call_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in call(capsys, *arguments, "--json")[1].splitlines()]


def _is_read_by_transformers(run: str) -> None:
    """For text: it has no place for a picture."""
    folder = snapshot_folder(Path(run))
    theirs, ours = AutoModelForCausalLM.from_pretrained(folder).eval(), load(folder, "cpu").model
    text = torch.randint(0, 200, (2, 9))
    expected = ours.logits(ours(text, torch.zeros_like(text), ours.start(2)).hidden)
    assert torch.allclose(theirs(text).logits, expected, atol=1e-5)
    with pytest.raises(UserMistake, match="does nothing with pixel_values"):
        theirs(text, pixel_values=torch.zeros(2, 3, 16, 16))


def test_a_model_of_text_alone_says_what_it_lacks(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_lines(project / "lines.jsonl")
    preset = {**PRESET, "model": {**PRESET["model"], "vision": None}}
    preset["data"] = {**PRESET["data"], "sources": [{"type": "jsonl", "paths": "lines.jsonl"}]}
    preset["train"] = {**PRESET["train"], "picture_augmentation": None, "train_tokens": 200}
    Path("blind.json").write_text(json.dumps(preset))
    assert call(capsys, "train", "--preset", "blind.json", "--run", "blind")[0] == 0
    for asked, where in (
        (("eval", "--retrieval"), "model.vision"),
        (("generate", "--image", "pictures/red12.png"), "--image"),
    ):
        code, _, err = call(capsys, asked[0], "--run", "blind", *asked[1:])
        assert code == 2
        assert f"this model takes no pictures\nat: {where}\nhelp: " in err
        assert "--set model.vision=lite" in err


@pytest.fixture
def tower(tmp_path: Path) -> CLIPVisionModel:
    return write_tower(tmp_path / "tower")


def test_a_tower_of_clip_comes_along_in_the_snapshot(
    project: Path, tower: CLIPVisionModel, capsys: pytest.CaptureFixture[str]
) -> None:
    preset = with_vision(type="clip", path="tower", num_prefix_tokens=2)
    preset["train"] = {**PRESET["train"], "train_tokens": 400}
    Path("clip.json").write_text(json.dumps(preset))
    code, _, err = call(capsys, "train", "--preset", "clip.json", "--run", "clip")
    assert code == 0, err
    (project / "tower").rename(project / "elsewhere")
    model = load("clip", "cpu").model
    assert isinstance(model.config.vision, Clip.Config)
    assert model.config.image_form is not None
    assert model.config.image_form.size == 16
    assert model.config.vision.mean == (0.1, 0.2, 0.3)
    seen = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    normal = (seen / 255 - torch.tensor([0.1, 0.2, 0.3])[:, None, None]) / torch.tensor(model.config.vision.std)[
        :, None, None
    ]
    expected = tower.post_layernorm(tower(normal).last_hidden_state)
    assert torch.allclose(model.vision.encoder(seen), expected, atol=1e-5)
    _is_read_by_transformers("clip")
    assert call(capsys, "ckpt", "export", "--run", "clip", "--to", "pth", "clip.pth")[0] == 0
    assert call(capsys, "ckpt", "import", "clip.pth", "--run", "imported")[0] == 0
    imported = load("imported", "cpu").model.state_dict()
    assert [name for name, weight in model.state_dict().items() if not torch.equal(weight, imported[name])] == []
    code, _, err = call(capsys, "train", "--run", "clip", "--set", "train.train_tokens=600")
    assert code == 0, err


def test_another_size_than_the_towers_is_refused(tower: CLIPVisionModel, tmp_path: Path) -> None:
    asked = Clip.Config(path=str(tmp_path / "tower"), image_size=32)
    with pytest.raises(UserMistake, match="takes pictures of 16 pixels, not of 32"):
        asked.completed()
    with pytest.raises(UserMistake, match="no CLIP could be read"):
        Clip.Config(path=str(tmp_path / "nowhere")).completed()
    (tmp_path / "tower" / "preprocessor_config.json").unlink()
    assert Clip.Config(path=str(tmp_path / "tower")).completed().mean == MEAN


def test_a_whole_clip_gives_its_tower_without_a_word(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**sizes, "vocab_size": 50, "bos_token_id": 0, "eos_token_id": 1}
    vision = {**sizes, "image_size": 16, "patch_size": 8}
    clip = CLIPModel(CLIPConfig(vision_config=vision, text_config=text, projection_dim=8))
    clip.save_pretrained(tmp_path / "clip")
    capfd.readouterr()
    config = Clip.Config(path=str(tmp_path / "clip")).completed()
    encoder = config.build_encoder()
    assert isinstance(encoder, Clip)
    encoder.load(config.path)
    assert capfd.readouterr() == ("", "")
    tower = encoder.tower.state_dict()
    theirs = clip.vision_model.state_dict()
    assert tower.keys() == theirs.keys()
    assert all(torch.equal(tower[name], theirs[name]) for name in tower)


def test_a_model_id_finds_the_tower_that_the_hubs_cache_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    tower = write_tower(folder_in_cache("somebody/tower", tmp_path / "cache", monkeypatch))
    capfd.readouterr()
    config = Clip.Config(path="somebody/tower").completed()
    encoder = config.build_encoder()
    assert isinstance(encoder, Clip)
    encoder.load(config.path)
    assert (config.image_size, config.mean, capfd.readouterr()) == (16, (0.1, 0.2, 0.3), ("", ""))
    pairs = zip(encoder.tower.parameters(), tower.parameters(), strict=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in pairs)
    with pytest.raises(UserMistake, match="no such model in the hub's cache"):
        Clip.Config(path="somebody/else").completed()


def test_a_tower_that_is_not_frozen_learns(tower: CLIPVisionModel, tmp_path: Path) -> None:
    for frozen in (True, False):
        encoder = Clip.Config(path=str(tmp_path / "tower"), frozen=frozen).build_encoder()
        assert {one.requires_grad for one in encoder.parameters()} == {not frozen}
        assert np.isfinite(encoder(torch.zeros(1, 3, 16, 16, dtype=torch.uint8)).detach().numpy()).all()
