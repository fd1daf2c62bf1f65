"""Reward models small enough for tests, and preferences that are easy to learn."""

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.objectives.preference import PreferenceObjective
from dreamlm.core.rl.answer import Answer, Prompt
from dreamlm.core.rl.pair import Pair
from dreamlm.core.rl.pair_reading import Measure, measures_nothing, read_pairs_as_tokens
from dreamlm.core.rl.reward_config import RewardConfig
from dreamlm.core.rl.reward_model import RewardModel
from dreamlm.core.rl.reward_state import RewardState
from dreamlm.core.rl.reward_training import RewardData, RewardTrainer
from dreamlm.core.tokenizer import BytePair, Tokenizer
from dreamlm.core.training.backend.backend import Tensors
from dreamlm.core.training.backend.single import SingleProcess
from dreamlm.core.training.hooks import Hook
from dreamlm.core.training.saving import RunState

WORDS = ("cat", "dog", "saw", "the", "a", "sat", "mat")
TOKENIZER: Tokenizer = BytePair(vocab_size=280).build(["the cat sat on the mat and saw a dog "] * 4)
SHAPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "with a module": {"segment_length": 8, "modules": [{"type": "segment_summary"}]},
    "experts": {"feed_forward": {"type": "moe", "num_experts": 4, "top_k": 2}},
}


def reward_model(shape: str = "plain", rows: int = 32, shaken: bool = False, **options: Any) -> RewardModel:
    """Fresh, or `shaken`: with weights far from fresh ones, so that every part matters."""
    sizes = {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "seq_length": 32, **SHAPES[shape], **options}
    torch.manual_seed(0)
    model = RewardModel(DreamLM.Config.model_validate(sizes).build(TOKENIZER.vocab_size), TOKENIZER, rows)
    if shaken:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


def answer(prompt: str, text: str) -> Answer:
    """As a policy with another tokenizer would have written it."""
    return Answer(Prompt(prompt), (0,), (1, 2, 3), text, ended=True)


def cat_pairs(count: int, seed: int = 0, flipped: float = 0.0) -> list[Pair]:
    """Whoever says `cat` is preferred; of the labels, a share is turned round."""
    dice = random.Random(seed)
    pairs = []
    for number in range(count):
        prompt = " ".join(dice.choices(WORDS, k=3)) + f" {number}"
        good, bad = (f"{dice.choice(WORDS[2:])} {word} {dice.choice(WORDS[2:])}" for word in ("cat", "dog"))
        pairs.append(Pair(prompt, bad, good) if dice.random() < flipped else Pair(prompt, good, bad))
    return pairs


def graded_pairs(count: int, seed: int = 0, flipped: float = 0.0) -> list[Pair]:
    """Whoever says `cat` more often among six words is preferred, be it by one or by six."""
    dice = random.Random(seed)
    pairs = []
    for _ in range(count):
        more, fewer = sorted(dice.sample(range(7), 2), reverse=True)
        good, bad = (" ".join(dice.sample(["cat"] * cats + ["dog"] * (6 - cats), 6)) for cats in (more, fewer))
        pairs.append(Pair("the", bad, good) if dice.random() < flipped else Pair("the", good, bad))
    return pairs


@dataclass
class Shelf:
    """A saver that keeps copies in memory."""

    saved: list[tuple[RewardState, Tensors]] = field(default_factory=list)

    def save(self, state: RunState, tensors: Tensors) -> Path:
        copies = Tensors(*({k: v.clone() for k, v in part.items()} for part in (tensors.model, tensors.optimizer)))
        self.saved.append((RewardState.from_json(state.to_json()), copies))
        return Path(f"step-{state.step}")

    def roll_back(self) -> int:
        return max(state.step for state, _ in self.saved if state.skipped_in_a_row == 0)


@dataclass
class RewardRun:
    """A small run; `go()` trains it, from the beginning or from what was saved."""

    train: list[Pair]
    held_out: list[Pair]
    options: dict[str, Any] = field(default_factory=dict)
    model_options: dict[str, Any] = field(default_factory=dict)
    hook: Hook = field(default_factory=Hook)
    shelf: Shelf = field(default_factory=Shelf)
    measure: Measure = measures_nothing
    backend: type[SingleProcess] = SingleProcess

    def go(self, resume: bool = False) -> tuple[RewardState, RewardModel]:
        few = {"epochs": 2, "optimizer": {"learning_rate": 3e-3}, "precision": "fp32", "pairs_per_step": 8}
        config = RewardConfig.model_validate({**few, **self.options})
        model = reward_model(**self.model_options)
        parts = {name: weight for name, weight in model.trunk.config.loss_weights.items() if name != "token"}
        weights = {"preference": 1.0, "components": config.component_weight, **parts}
        objective = PreferenceObjective(model)
        backend = self.backend(objective, config.optimizer, weights, config.max_grad_norm, "fp32", compile=False)
        train = read_pairs_as_tokens(self.train, TOKENIZER, model.window, self.measure)
        data = RewardData(train.pairs, read_pairs_as_tokens(self.held_out, TOKENIZER, model.window).pairs)
        state = RewardState(data.steps(config), "fp32", trunk="", pairs="")
        if resume:
            state, tensors = self.shelf.saved[-1]
            backend.restore(tensors)
        state = RewardTrainer(config, backend, model, data, self.shelf, self.hook).run(state)
        return state, model
