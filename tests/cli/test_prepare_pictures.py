"""What `dreamlm prepare` says of a source with pictures."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

COUNT = 6


@pytest.fixture
def preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Six captioned pictures, one of them broken, and a preset that reads them."""
    monkeypatch.setenv("DREAMLM_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "birds"
    folder.mkdir()
    for number in range(COUNT):
        Image.new("RGB", (4, 4), (40 * number, 0, 0)).save(folder / f"{number}.png")
    (folder / "3.png").write_bytes(b"")
    records = [{"file_name": f"{number}.png", "text": f"Bird number {number}"} for number in range(COUNT)]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, records)))
    values = {
        "model": {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "seq_length": 64, "vision": {"type": "lite"}},
        "tokenizer": {"type": "bpe", "vocab_size": 300},
        "data": {"sources": [{"type": "images", "paths": "birds"}]},
    }
    (tmp_path / "birds.json").write_text(json.dumps(values))
    return "birds.json"


def test_pictures_are_counted_kept_and_left_out(cli: Any, preset: str) -> None:
    summary = json.loads(cli("prepare", "--preset", preset, "--json").out)
    assert summary["images"]["places"] > 0
    assert [part["pictures"] for part in summary["splits"].values()] == [4, 1]
    (source,) = summary["sources"]
    assert (source["inputs"], source["documents"], source["pictures"]) == (COUNT + 1, 5, 5)
    assert (source["drops"], source["examples"]) == ({"picture: empty": 1}, {"picture: empty": ["3.png"]})

    size, places = summary["images"]["size"], summary["images"]["places"]
    _, form, header, *rows = cli("prepare", "--preset", preset).out.splitlines()
    assert form == f"pictures of {size} x {size} pixels, {places} places each"
    assert header.split() == ["part", "documents", "pictures", "tokens", "text"]
    assert [row.split()[:3] for row in rows[:2]] == [["train", "4", "4"], ["validation", "1", "1"]]
    assert rows[3].split() == ["source", "inputs", "documents", "pictures", "tokens", "failure"]
    assert rows[-1].split() == ["birds", "picture:", "empty", "1"]


def test_a_model_without_eyes_is_told_what_to_set(cli: Any, preset: str) -> None:
    outcome = cli("prepare", "--preset", preset, "--set", "model.vision=null")
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.endswith(
        "error: source birds gives pictures, and the model takes none\n"
        "at: data.sources\n"
        "help: give the model eyes, as with --set model.vision=lite, or leave the source out\n"
    )
