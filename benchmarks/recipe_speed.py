"""What the recipes of a trials file cost: seconds of a training step per token, relative to the first one named.

    python benchmarks/recipe_speed.py TRIALS.json --only NAME ... [--precision bf16] [--rounds 9]

The recipes take turns, a step each, on windows of random tokens with a few documents in each; a ratio is the median
over the rounds of two steps of one round. Bits per byte at equal tokens and this ratio together tell what a recipe is
worth at equal wall time.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import tricks
from recipe import TRICK, settings

from dreamlm.core.objectives.causal import CausalObjective
from dreamlm.core.training.backend.backend import WindowBatch
from dreamlm.core.training.backend.single import SingleProcess
from dreamlm.core.types import Batch
from dreamlm.presets.resolve import resolve


class Recipe:
    """A fresh model of a trial and its optimizer."""

    def __init__(self, base: Path, changes: dict[str, object], precision: str) -> None:
        preset = resolve(base, [f"{key}={json.dumps(value)}" for key, value in changes.items() if key != TRICK])
        vocab_size = preset.tokenizer.vocab_size
        model = tricks.build(str(changes.get(TRICK, "")), preset.model, vocab_size)
        train = preset.train
        self._backend = SingleProcess(
            CausalObjective(model.train(), train.label_smoothing),
            train.optimizer,
            preset.model.loss_weights,
            train.max_grad_norm,
            precision,
            False,
        )
        rows, length = train.per_gpu_batch_size, preset.model.seq_length
        random = np.random.default_rng(0)
        tokens = random.integers(0, vocab_size, (rows, length + 1))
        documents = np.sort(random.integers(0, 3, (rows, length + 1)), axis=1).astype(np.int32)
        self._batch = WindowBatch(Batch(tokens, documents, np.zeros(rows, np.int32)), seed=0)

    def seconds_per_token(self) -> float:
        begin = time.perf_counter()
        measured = self._backend.forward_backward([self._batch])
        self._backend.update(1e-6)
        return (time.perf_counter() - begin) / measured.tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trials", type=Path)
    parser.add_argument("--only", nargs="+")
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    plan = json.loads(options.trials.read_text())
    names = options.only or list(plan["trials"])
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "base.json"
        base.write_text(json.dumps({**plan["base"], "data": {"sources": ["python_docs"]}}))
        recipes = {name: Recipe(base, settings(plan["trials"], name), options.precision) for name in names}
    rounds: list[list[float]] = []
    for number in range(2 + options.rounds):
        taken = [recipe.seconds_per_token() for recipe in recipes.values()]
        if number >= 2:
            rounds.append(taken)
    print(f"{'recipe':36} {'time':>6} {'us per token':>13}  ({torch.get_num_threads()} threads, {options.precision})")
    for place, name in enumerate(recipes):
        ratio = statistics.median(taken[place] / taken[0] for taken in rounds)
        own = statistics.median(taken[place] for taken in rounds)
        print(f"{name:36} {ratio:6.3f} {1e6 * own:13.1f}")


if __name__ == "__main__":
    main()
