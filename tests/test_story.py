"""The life of a small language model, told once: prepare, train, go on, measure, write, keep."""

import json
from pathlib import Path
from typing import Any

import pytest

from dreamlm.cli.app import run

FABLES = [
    f"The {one} met the {other} by the river. Good day, said the {one}; the {other} said nothing."
    for one in ("fox", "crow", "lion", "mouse", "hare", "wolf", "crane", "ox")
    for other in ("tortoise", "dog", "ant", "dove", "frog", "stork", "goat", "lamb")
]
PRESET = {
    "model": {"hidden_size": 32, "num_layers": 1, "num_heads": 2, "seq_length": 16},
    "tokenizer": {"type": "bpe", "vocab_size": 300},
    "data": {"sources": [{"type": "jsonl", "paths": "fables.jsonl"}], "validation_fraction": 0.1},
    "train": {"train_tokens": 4096, "per_gpu_batch_size": 8, "precision": "fp32", "optimizer": "muon"},
    "generate": {"max_new_tokens": 12},
}


def test_the_life_of_a_small_language_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DREAMLM_HOME", str(tmp_path / "home"))

    def dreamlm(*arguments: str) -> list[Any]:
        """The JSON that a command prints, one value a line."""
        capsys.readouterr()
        assert run([*arguments, "--json"]) == 0
        out = capsys.readouterr().out
        try:
            return [json.loads(out)]
        except json.JSONDecodeError:
            return [json.loads(line) for line in out.splitlines()]

    Path("fables.jsonl").write_text("\n".join(json.dumps({"text": fable}) for fable in FABLES))
    Path("fables.json").write_text(json.dumps(PRESET))

    # Documents become a corpus: shards, a tokenizer learned from them, and a part held out.
    [corpus] = dreamlm("prepare", "--preset", "fables.json")
    assert sum(part["documents"] for part in corpus["splits"].values()) == len(FABLES)

    # The corpus becomes a run, and the loss falls.
    steps = [event for event in dreamlm("train", "--preset", "fables.json") if event["event"] == "step"]
    assert steps[-1]["nll"] < steps[0]["nll"] - 1.0

    # Asked for more, it goes on where it stood.
    events = dreamlm("train", "--run", "runs/fables", "--set", "train.train_tokens=8192")
    assert next(event["step"] for event in events if event["event"] == "step") == steps[-1]["step"] + 1

    # It is measured on what it never saw, and it writes like what it read.
    [report] = dreamlm("eval", "--run", "runs/fables")
    assert report["perplexity"] < 100  # a model that knows nothing has 300
    [text] = dreamlm("generate", "--run", "runs/fables", "The fox met the", "--greedy")
    assert any(word in text["text"] for word in ("said", "the", "river"))

    # Its snapshots are intact, and one of them leaves the house as a stock transformers folder.
    listed = dreamlm("ckpt", "list", "--run", "runs/fables")
    assert "lm_current" in json.dumps(listed)
    dreamlm("ckpt", "verify", "--run", "runs/fables")
    dreamlm("ckpt", "export", "--run", "runs/fables", "exported")
    assert Path("exported/model.safetensors").exists()
