"""Reinforcement learning of a model that sees: text alone goes in and out, and its eyes stay as they were."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from seeing_runs import COLOURS, PIXELS, with_vision, write_pictures, write_tower

from dreamlm.checkpoints.snapshot import Snapshot, read_snapshot
from dreamlm.core.generation.generate import generate
from dreamlm.core.training.hooks import Hook, Sample
from dreamlm.data_sources.progress import Silence
from dreamlm.presets.resolve import resolve
from dreamlm.wiring.loading import load
from dreamlm.wiring.policy import train_policy
from dreamlm.wiring.policy_start import PolicyRequest
from dreamlm.wiring.reward_start import RewardRequest
from dreamlm.wiring.reward_training import train_reward
from dreamlm.wiring.training import TrainRequest, train

RL = {
    "prompts": {"words": 4, "validation_fraction": 0.3},
    "pairs": {"source": {"type": "jsonl", "paths": "pairs.jsonl"}, "validation_fraction": 0.5},
    "reward_model": {"pairs_per_step": 8, "pairs_per_micro_batch": 8, "precision": "fp32"},
    "learned_from": "judge",
    "scoring": {"learned": 1.0},
    "ppo": {
        **{"answers": 8, "minibatch": 8, "micro_batch": 4, "iterations": 2, "eval_prompts": 2, "stop_kl": 100.0},
        **{"precision": "fp32", "rollout": {"max_new_tokens": 6}},
    },
}


class Listener(Hook):
    def __init__(self) -> None:
        self.samples: list[Sample] = []

    def on_sample(self, sample: Sample) -> None:
        self.samples.append(sample)


@pytest.fixture(scope="module")
def listener(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listener]:
    """What a policy's training told; beside it the runs `seeing`, `judge` and `policy`, without the tower's folder."""
    torch.set_num_threads(1)
    folder, listener = tmp_path_factory.mktemp("policy"), Listener()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DREAMLM_HOME", str(folder / "home"))
        patch.chdir(folder)
        write_pictures(folder / "pictures")
        write_tower(folder / "tower")
        preset = with_vision(type="clip", path="tower", num_prefix_tokens=2, frozen=False)
        Path("seeing.json").write_text(json.dumps({**preset, "rl": RL}))
        pairs = [{"prompt": f"Box {number}", "chosen": " is red.", "rejected": " is 7."} for number in range(40)]
        Path("pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
        train(TrainRequest(resolve("seeing.json"), Path("seeing"), workers=1), Hook(), Silence())
        (folder / "tower").rename(folder / "elsewhere")
        train_reward(RewardRequest(Path("seeing"), Path("judge")), Hook())
        train_policy(PolicyRequest(Path("policy"), Path("seeing")), listener)
        yield listener


def snapshot(run: str) -> Snapshot:
    return read_snapshot(Path(run) / "checkpoints" / "lm_current")


@pytest.mark.parametrize("run", ["judge", "policy"])
def test_all_but_the_eyes_learns(listener: Listener, run: str) -> None:
    before, after = snapshot("seeing").model, snapshot(run)
    still = {name for name, weight in before.items() if torch.equal(weight, after.model[name])}
    assert still == {name for name in before if name.startswith("vision.")}
    assert not any(name.startswith("vision.") for name in after.optimizer)


def test_captions_without_their_pictures_are_prompts(listener: Listener) -> None:
    assert listener.samples
    assert all(sample.prompt.startswith(tuple(f"A {colour} box," for colour in COLOURS)) for sample in listener.samples)


def test_a_policy_looks_at_a_picture_before_its_prompt(listener: Listener) -> None:
    loaded = load("policy", "cpu")
    pictures = [np.full((3, PIXELS, PIXELS), shade, np.uint8) for shade in (0, 255)]
    shown = [
        generate(loaded.model, loaded.tokenizer, ["A"], loaded.preset.generate, pictures=[one]) for one in pictures
    ]
    assert shown[0][0].mean_log_probability != shown[1][0].mean_log_probability
