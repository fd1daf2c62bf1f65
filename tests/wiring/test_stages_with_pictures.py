"""A model that dreams and sees through a curriculum: first text alone, pictures in the end; cut, it goes on exactly."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from seeing_runs import PRESET, write_pictures
from workplace import Cut, Witness

from dreamlm.data_sources.progress import Silence
from dreamlm.presets.resolve import resolve_values
from dreamlm.wiring.training import TrainRequest, train

DREAMS = {
    "type": "dreaming",
    "num_experts": 2,
    "moe_top_k": 1,
    "expert_num_layers": 1,
    "expert_num_heads": 2,
    "graph_num_heads": 2,
    "dream_size": 16,
}
STAGES = [
    {"name": "simple", "steps": 3, "dream_length": 2, "num_dream_sequences": 2, "graph_reasoning_hops": 1},
    {"name": "long", "steps": 2, "dream_length": 4, "num_dream_sequences": 3, "graph_reasoning_hops": 2},
    {
        "name": "multimodal",
        "steps": 9,
        "dream_length": 3,
        "num_dream_sequences": 3,
        "graph_reasoning_hops": 2,
        "images": True,
    },
]


def test_a_run_cut_in_every_stage_ends_like_one_that_never_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DREAMLM_HOME", str(tmp_path / "home"))
    write_pictures(tmp_path / "pictures")
    values = {
        **PRESET,
        "name": "staged",
        "model": {**PRESET["model"], "segment_length": 8, "modules": [DREAMS]},
        "train": {**PRESET["train"], "train_tokens": 640, "save_interval_steps": 1, "curriculum": STAGES},
    }
    preset = resolve_values(values, "staged")

    def run(name: str, witness: Witness) -> Path:
        train(TrainRequest(preset, tmp_path / name, workers=1), witness, Silence())
        return tmp_path / name

    whole = run("whole", Witness())
    for step in (2, 4, 6):
        with pytest.raises(KeyboardInterrupt):
            run("cut", Cut(step))
    cut = run("cut", Witness())
    for name in ("model", "optimizer"):
        ours, theirs = (load_file(one / "checkpoints" / "lm_current" / f"{name}.safetensors") for one in (cut, whole))
        assert ours.keys() == theirs.keys()
        assert all(np.array_equal(ours[key], theirs[key]) for key in theirs), name
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["event"] == "step"]
    assert [step["stage"]["name"] for step in steps] == ["simple"] * 3 + ["long"] * 2 + ["multimodal"] * 2
    assert ["contrastive" in step["objectives"] for step in steps] == [False] * 5 + [True] * 2
