"""A folder with a model that was trained a little, preferences, and the reward models made of them."""

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workplace import Witness, Workplace, write_text

from dreamlm.core.evaluation.preference import PreferenceReport
from dreamlm.presets.resolve import resolve
from dreamlm.wiring.reward_start import RewardRequest
from dreamlm.wiring.reward_training import train_reward

WORDS = ("saw", "the", "a")


@dataclass(frozen=True)
class Place:
    folder: Path

    @property
    def origin(self) -> Path:
        return self.folder / "run"

    def train(self, run: str, *sets: str, pairs: str = "easy", witness: Witness | None = None) -> PreferenceReport:
        request = RewardRequest(self.origin, self.folder / run, resolve(self.folder / f"{pairs}.json", sets))
        return train_reward(request, witness or Witness())


def furnish(folder: Path) -> Place:
    """A trained model and two presets with preferences, one of which has a reason; DREAMLM_HOME is set before."""
    write_text(folder / "text.jsonl", documents=60, seed=0)
    values: dict[str, Any] = {
        "model": {"hidden_size": 32, "num_layers": 1, "num_heads": 2, "seq_length": 32},
        "tokenizer": {"type": "bpe", "vocab_size": 280},
        "data": {"sources": [{"type": "jsonl", "paths": "text.jsonl"}]},
        "train": {"train_tokens": 8 * 32 * 2, "per_gpu_batch_size": 8, "precision": "fp32"},
        "generate": {"max_new_tokens": 2},
    }
    (folder / "small.json").write_text(json.dumps(values))
    training = {"optimizer": {"learning_rate": 5e-3}, "precision": "fp32", "save_interval_steps": 2}
    for name in ("easy", "coin"):
        write_pairs(folder / f"{name}.jsonl", 150, reason=name == "easy")
        pairs = {"source": {"type": "jsonl", "paths": f"{name}.jsonl"}}
        (folder / f"{name}.json").write_text(json.dumps({**values, "rl": {"pairs": pairs, "reward_model": training}}))
    Workplace(folder).train(folder / "run")
    return Place(folder)


def write_pairs(path: Path, count: int, reason: bool) -> None:
    """Answers with a cat are preferred, or, without a reason, either one."""
    dice = random.Random(3)
    records = []
    for number in range(count):
        cat, dog = (f"{dice.choice(WORDS)} {word} {dice.choice(WORDS)}" for word in ("cat", "dog"))
        chosen, rejected = (cat, dog) if reason or dice.random() < 0.5 else (dog, cat)
        records.append({"prompt": f"the dog saw {number}", "chosen": chosen, "rejected": rejected})
    path.write_text("\n".join(json.dumps(record) for record in records))
