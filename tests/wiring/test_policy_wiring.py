"""What the preset says of a policy's losses and steps is what its objective and its backend are given."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dreamlm.checkpoints.frozen import freeze
from dreamlm.checkpoints.manifest import Record
from dreamlm.checkpoints.snapshot import Snapshot
from dreamlm.core.objectives.ppo import UNTRAINED, Algorithm, PolicyObjective
from dreamlm.core.rl.answer import Prompt
from dreamlm.core.rl.experience import Experience, ExperienceBatch
from dreamlm.core.rl.policy import AnswerBatch
from dreamlm.core.rl.rollout import RolloutConfig, roll_out
from dreamlm.core.tokenizer import BytePair
from dreamlm.core.training.config import TrainingConfig
from dreamlm.core.training.hooks import Hook
from dreamlm.core.training.state import TrainingState
from dreamlm.core.types import Cursor
from dreamlm.presets.resolve import resolve
from dreamlm.wiring import policy
from dreamlm.wiring.policy import train_policy
from dreamlm.wiring.policy_start import PolicyRequest
from dreamlm.wiring.saver import transformers_config

TEXT = "the cat saw the dog and a cat saw the dog"
CLIP, VALUE_CLIP, TEMPERATURE = 0.3, 0.7, 1.7
"""None of them, nor what stands in `PPO`, is a default."""
PPO = {
    "clip": CLIP,
    "value_clip": VALUE_CLIP,
    "value_coefficient": 0.25,
    "entropy_coefficient": 0.03,
    "max_grad_norm": 0.125,
    "optimizer": {"learning_rate": 0.002},
    "precision": "fp32",
    "zero_stage": 1,
    "rollout": {"max_new_tokens": 6, "temperature": TEMPERATURE},
}


class Reached(Exception):
    """The backend is about to be built."""


@dataclass(frozen=True)
class Handed:
    """What `build_backend` was given."""

    config: TrainingConfig
    objective: PolicyObjective
    weights: Mapping[str, float]
    precision: str


Hand = Callable[..., Handed]


@pytest.fixture
def hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hand:
    """Begins a run and stops it where the backend would be built."""
    torch.set_num_threads(1)
    monkeypatch.setenv("DREAMLM_HOME", str(tmp_path / "home"))
    untrained(tmp_path)
    handed: list[Any] = []

    def record(*given: Any) -> None:
        handed.extend(given)
        raise Reached

    def begin(*sets: str) -> Handed:
        monkeypatch.setattr(policy, "build_backend", record)
        with pytest.raises(Reached):
            train_policy(PolicyRequest(tmp_path / "policy", tmp_path / "model", sets=sets), Hook())
        return Handed(*handed[:4])

    return begin


def untrained(folder: Path) -> None:
    """The snapshot of a model with random weights, as training would have left it."""
    (folder / "text.jsonl").write_text("\n".join(json.dumps({"text": f"{n} {TEXT}"}) for n in range(20)))
    values = {
        "model": {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "seq_length": 24},
        "tokenizer": {"type": "bpe", "vocab_size": 270},
        "data": {"sources": [{"type": "jsonl", "paths": "text.jsonl"}]},
        "rl": {"prompts": {"words": 3, "validation_fraction": 0.3}, "ppo": PPO},
    }
    (folder / "small.json").write_text(json.dumps(values))
    preset = resolve(folder / "small.json")
    tokenizer = preset.tokenizer.build([TEXT])
    torch.manual_seed(0)
    model = preset.model.build(tokenizer.vocab_size)
    state = TrainingState(
        seed=0, planned_steps=1, global_rows=1, micro_rows=1, precision="fp32", corpus="", cursor=Cursor()
    )
    snapshot = Snapshot(
        model={name: weight.detach() for name, weight in model.named_parameters()},
        optimizer={},
        state=state.to_json(),
        config=transformers_config(model, tokenizer),
        preset=preset.model_dump(mode="json"),
        tokenizer_files=tokenizer.files(),
    )
    freeze(snapshot, Record(step=1, tokens=1, finite=True), folder / "model")


def test_entropy_is_sought_and_every_other_loss_is_weighed_as_the_preset_says(hand: Hand) -> None:
    weights = hand().weights
    expected = {"policy_loss": 1.0, "value_loss": 0.25, "pull": 1.0, "entropy": -0.03}
    assert {name: weights[name] for name in expected} == expected
    assert {weights[name] for name in UNTRAINED} == {0.0}


def test_the_backend_clips_and_steps_as_the_preset_says(hand: Hand) -> None:
    handed = hand()
    assert handed.config.max_grad_norm == 0.125
    assert handed.config.optimizer.learning_rate == 0.002
    assert (handed.config.backend, handed.config.zero_stage) == ("auto", 1)
    assert handed.precision == "fp32"


@pytest.mark.parametrize("by", ["ppo", "reinforce"])
def test_the_objective_clips_ratios_and_values_as_the_preset_says(hand: Hand, by: Algorithm) -> None:
    objective = hand(f"rl.ppo.algorithm={by}").objective
    batch = far_from(objective)

    def losses(one: PolicyObjective) -> dict[str, float]:
        with torch.no_grad():
            found = one(*batch.inputs(torch.device("cpu"))).objectives
        return {name: found[name].item() for name in ("policy_loss", "value_loss", "clip_fraction")}

    def of(*given: Any) -> dict[str, float]:
        return losses(PolicyObjective(objective.policy, objective.value_head, *given))

    wanted = of(CLIP, VALUE_CLIP, by)
    assert losses(objective) == wanted
    others = [(0.2, VALUE_CLIP, by), (0.9, VALUE_CLIP, by), (CLIP, 0.2, by), (CLIP, 99.0, by)]
    alike = [other for other in others if of(*other) == wanted]
    assert alike == ([] if by == "ppo" else others[2:])  # which has no clip of the value


def far_from(objective: PolicyObjective) -> ExperienceBatch:
    """Answers written at the preset's temperature, and experience from which the policy is far by now."""
    model, tokenizer = objective.model, BytePair(vocab_size=270).build([TEXT])
    config = RolloutConfig(max_new_tokens=6, temperature=TEMPERATURE)
    rollouts = roll_out(model, tokenizer, [Prompt("the cat"), Prompt("a dog saw"), Prompt("a")], config, [1, 2, 3])
    with torch.no_grad():
        opinion, _ = objective.policy.eval()(AnswerBatch.of(rollouts))
    written_N = np.concatenate([one.log_probabilities_N for one in rollouts])
    np.testing.assert_allclose(opinion.log_probability_N.numpy(), written_N, atol=1e-4)
    numbers = np.random.default_rng(0)
    experience = []
    for one in rollouts:
        old_N = one.log_probabilities_N + numbers.standard_normal(len(one.log_probabilities_N))
        experience.append(Experience(one, old_N, *(numbers.standard_normal(len(old_N)) for _ in range(4))))
    return ExperienceBatch.of(experience, 0.0, 0)
