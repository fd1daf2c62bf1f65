"""Two processes under DeepSpeed train models that see, though not each of their micro-batches holds a picture.

A micro-batch is the same at any number of processes, and pictures are compared with the captions of their micro-batch
alone: two processes come to the weights of one. From ZeRO stage 1 on a micro-batch without a picture gets one, which
moves what is drawn behind it: then that holds where nothing is drawn at random, and elsewhere a run equals itself.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from seeing_runs import PRESET, write_lines, write_pictures, write_tower
from torch import Tensor
from two_ranks import run_in_two_ranks

from dreamlm.checkpoints.snapshot import read_snapshot
from dreamlm.core.training.hooks import Hook
from dreamlm.data_sources.progress import Silence
from dreamlm.presets.resolve import resolve
from dreamlm.wiring.training import TrainRequest, train

pytest.importorskip("deepspeed")
pytestmark = pytest.mark.slow
WORKER = Path(__file__).with_name("picture_ranks_worker.py")
TIMEOUT_SECONDS = 240
STOPPED_AT = 3
CLIP = ('model.vision={"type": "clip", "path": "tower", "num_prefix_tokens": 2}',)
SIZES = {"dream_length": 2, "num_dream_sequences": 2, "graph_reasoning_hops": 1}
STAGES = [{"name": "text", "steps": 2, **SIZES}, {"name": "pictures", "steps": 2, **SIZES, "images": True}]
STAGED = (
    "model.segment_length=8",
    'model.modules=[{"type": "dreaming", "num_experts": 2, "moe_noise_std": 0, "expert_num_heads": 2,'
    ' "graph_num_heads": 2, "expert_num_layers": 1}]',
    "train.curriculum=" + json.dumps(STAGES),
)
QUIET = ("model.vision.token_mask_prob=0", "model.vision.embedding_dropout=0", "train.picture_augmentation=null")
LEARNING = (*CLIP, *STAGED, "model.vision.frozen=false", "model.dropout=0.1")
RUNS = {
    "stage 0": ("model.dropout=0.1", "train.zero_stage=0"),
    "stage 2": (*CLIP, *QUIET, "train.zero_stage=2"),
    "curriculum": (*QUIET, *STAGED, "train.zero_stage=2"),
}
ORDERS = [
    *((name, sets, None) for name, sets in RUNS.items()),
    ("whole", (*LEARNING, "train.zero_stage=2"), None),
    ("cut", (*LEARNING, "train.zero_stage=2"), STOPPED_AT),
    ("cut", (*LEARNING, "train.zero_stage=2"), None),
]


def preset() -> dict[str, Any]:
    """Windows of pictures and of text take turns, so that the second of two processes reads text alone."""
    sources = [{"type": "images", "paths": "pictures"}, {"type": "jsonl", "paths": "lines.jsonl"}]
    train = {
        "train_tokens": 4 * 32 * 6,
        "per_gpu_batch_size": 1,
        "accumulation_steps": 2,
        # So that the sign of a gradient near zero does not decide a whole step.
        "optimizer": {"type": "adamw", "learning_rate": 0.01, "epsilon": 0.01},
    }
    return {**PRESET, "data": {**PRESET["data"], "sources": sources}, "train": {**PRESET["train"], **train}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where two processes have trained all runs of `ORDERS`."""
    folder = tmp_path_factory.mktemp("seeing")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DREAMLM_HOME", str(folder / "home"))
        patch.chdir(folder)
        write_pictures(folder / "pictures")
        write_lines(folder / "lines.jsonl")
        write_tower(folder / "tower")
        (folder / "seeing.json").write_text(json.dumps(preset()))
        (folder / "orders.json").write_text(json.dumps(ORDERS))
        run_in_two_ranks(WORKER, folder, seconds=TIMEOUT_SECONDS)
        yield folder


def tensors(run: Path) -> dict[str, Tensor]:
    snapshot = read_snapshot(run / "checkpoints" / "lm_current")
    return {**snapshot.model, **snapshot.optimizer}


def steps(run: Path) -> list[dict[str, Any]]:
    events = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [event for event in events if event["event"] == "step"]


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_learn_what_one_learns(folder: Path, name: str) -> None:
    torch.set_num_threads(1)
    alone = folder / f"{name} alone"
    asked = resolve(folder / "seeing.json", (*RUNS[name], "train.accumulation_steps=4"))
    train(TrainRequest(asked, alone, workers=1), Hook(), Silence())
    for mine, yours in zip(steps(folder / name), steps(alone), strict=True):
        assert mine["objectives"] == pytest.approx(yours["objectives"], rel=1e-4)
    blind = STAGES[0]["steps"] if name == "curriculum" else 0
    seen = [step["objectives"].get("contrastive", 0.0) > 0 for step in steps(alone)]
    assert seen == [step >= blind for step in range(len(seen))]
    assert len(seen) > blind
    ours, theirs = tensors(folder / name), tensors(alone)
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        torch.testing.assert_close(ours[key], value, rtol=1e-4, atol=2e-5, msg=key)


def test_a_run_that_was_stopped_comes_to_the_same_weights_to_the_last_bit(folder: Path) -> None:
    mine, yours = ([(step["step"], step["objectives"]) for step in steps(folder / name)] for name in ("cut", "whole"))
    assert mine == yours
    assert [step for step, _ in mine] == list(range(1, len(mine) + 1))
    assert len(mine) > STOPPED_AT
    ours, theirs = tensors(folder / "cut"), tensors(folder / "whole")
    assert ours.keys() == theirs.keys()
    assert [name for name in theirs if not torch.equal(ours[name], theirs[name])] == []


def test_a_frozen_tower_has_its_weights_in_the_snapshot_and_no_moments(folder: Path) -> None:
    snapshot = read_snapshot(folder / "stage 2" / "checkpoints" / "lm_current")
    assert any(name.startswith("vision.encoder.tower.") for name in snapshot.model)
    assert not any(name.startswith("vision.encoder.tower.") for name in snapshot.optimizer)
