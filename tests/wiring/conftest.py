"""A tiny preset on text that the test writes."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from workplace import Workplace, write_text


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    torch.set_num_threads(1)
    monkeypatch.setenv("DREAMLM_HOME", str(tmp_path / "home"))
    write_text(tmp_path / "text.jsonl", documents=200, seed=0)
    values = {
        "model": {"hidden_size": 32, "num_layers": 1, "num_heads": 2, "seq_length": 32},
        "tokenizer": {"type": "bpe", "vocab_size": 300},
        "data": {"sources": [{"type": "jsonl", "paths": [str(tmp_path / "text.jsonl")]}]},
        "train": {"train_tokens": 8 * 32 * 6, "per_gpu_batch_size": 8, "precision": "fp32"},
        "generate": {"max_new_tokens": 4},
    }
    (tmp_path / "small.json").write_text(json.dumps(values))
    return Workplace(tmp_path)


@pytest.fixture
def trained(place: Workplace) -> Callable[..., Path]:
    def run(*sets: str) -> Path:
        place.train(place.folder / "run", *sets)
        return place.folder / "run"

    return run
