"""What a stack of thoughts costs: a push, the encoder, and how many thoughts a loss trains directly.

    python benchmarks/thoughts.py [--rounds 15]

In every round all variants take their turn, so the machine's other load falls on all alike. Prints medians and ratios:
a push on stacks of 4 to 1,024 thoughts; the vectorised encoder against a loop over the slots of a stack; a training
step of a 1M-parameter decoder without thoughts, and with losses that train the newest 1, 2, 4 and all thoughts
directly, with the memory that the step's graph holds.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from dreamlm.core.modules.module import Room
from dreamlm.core.modules.ring import Ring
from dreamlm.core.modules.thought_stack import ThoughtStack
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.nn.pooling import attend
from dreamlm.core.objectives.causal import CausalObjective

ROWS, DIMS, WIDTH = 16, (16, 16, 8), 256
VOCAB = 2048
CPU = torch.device("cpu")


def interleaved(tasks: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each task; the first round warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for number in range(rounds + 1):
        for name, task in tasks.items():
            begun = time.perf_counter()
            task()
            if number:
                seconds[name].append(time.perf_counter() - begun)
    return {name: statistics.median(taken) for name, taken in seconds.items()}


@torch.no_grad()
def pushes(rounds: int) -> None:
    def task(size: int) -> Callable[[], object]:
        rings = [Ring.empty(ROWS, size, DIMS, CPU)]
        new, rows, keeps = torch.randn(ROWS, *DIMS), torch.arange(ROWS), torch.ones(ROWS, dtype=torch.bool)

        def push() -> None:
            for _ in range(1024):
                rings[0] = rings[0].push(new, rows, keeps)

        return push

    found = interleaved({str(size): torch.no_grad()(task(size)) for size in (4, 16, 64, 256, 1024)}, rounds)
    print("\npush of 16 rows, mean over 1,024 of them\nstack size   microseconds   ratio")
    for name, taken in found.items():
        print(f"{name:>10}{taken / 1024 * 1e6:15.1f}{taken / found['4']:8.2f}")


def encoders(rounds: int) -> None:
    for size in (8, 32):
        torch.manual_seed(0)
        module = ThoughtStack("thoughts", Room(WIDTH, 8, 32, 1e-5), ThoughtStack.Config(stack_size=size))
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.05) if parameter.ndim > 1 else None
        thoughts, count = torch.randn(ROWS, size, *DIMS), torch.full((ROWS,), size)

        def at_once(module: ThoughtStack = module, thoughts: Tensor = thoughts, count: Tensor = count) -> None:
            module.encode(thoughts, count)[0].sum().backward()

        def looped(module: ThoughtStack = module, thoughts: Tensor = thoughts, count: Tensor = count) -> None:
            slot_by_slot(module, thoughts, count).sum().backward()

        assert torch.allclose(module.encode(thoughts, count)[0], slot_by_slot(module, thoughts, count), atol=1e-4)
        found = interleaved({"at once": at_once, "slot by slot": looped}, rounds)
        share = found["at once"] / found["slot by slot"]
        print(f"\nencoder of {size} thoughts, forward and backward: at once {found['at once'] * 1e3:.1f} ms, "
              f"slot by slot {found['slot by slot'] * 1e3:.1f} ms: {1 - share:.0%} faster")  # fmt: skip


def slot_by_slot(module: ThoughtStack, thoughts: Tensor, count: Tensor) -> Tensor:
    """The same vectors, with a pass for each slot to make its vector, and one for each to attend to the others."""
    vectors = []
    for place, age in enumerate(reversed(range(thoughts.shape[1]))):
        vectors.append(module.pooled(thoughts[:, place : place + 1].flatten(3))[:, 0] + module.age[age])
    normal = [module.slot_norm(vector) for vector in vectors]
    keys = torch.stack([module.slot_key(one) for one in normal], dim=1)
    values = torch.stack([module.slot_value(one) for one in normal], dim=1)
    there = module._there(count)[:, None]
    mixed = [attend(module.slot_query(one)[:, None], keys, values, module.num_heads, there)[:, 0] for one in normal]
    return torch.stack([vector + one for vector, one in zip(vectors, mixed, strict=True)], dim=1)


def reaches(rounds: int) -> None:
    trunk = {"hidden_size": 128, "num_layers": 4, "num_heads": 2, "seq_length": 256, "segment_length": 32}
    kinds = {"no thoughts": None, **{f"reach {reach}": reach for reach in (1, 2, 4)}, "reach all": 8}
    tokens = torch.randint(0, VOCAB, (ROWS, 257), generator=torch.Generator().manual_seed(0))
    tasks = {}
    for name, reach in kinds.items():
        modules = [] if reach is None else [{"type": "thought_stack", "thought_dims": (8, 8, 4), "thought_bptt": reach}]
        config = {**trunk, "modules": modules} if modules else {**trunk, "segment_length": None}
        model = DreamLM.Config.model_validate(config).build(VOCAB)
        tasks[name] = partial(_step, CausalObjective(model, 0.0), tokens)
    held = {name: _held(task) for name, task in tasks.items()}
    found = interleaved(tasks, rounds)
    print("\nforward and backward of 16 windows of 256, segments of 32\n                 seconds   ratio   MB held")
    for name, taken in found.items():
        print(f"{name:14}{taken:10.3f}{taken / found['no thoughts']:8.2f}{held[name] / 1e6:10.1f}")


def _step(objective: CausalObjective, tokens: Tensor) -> None:
    losses = objective(tokens, torch.zeros_like(tokens), False)
    weights = objective.model.config.loss_weights
    (sum(weights[name] * loss for name, loss in losses.objectives.items()) / losses.tokens).backward()


def _held(task: Callable[[], object]) -> int:
    """Bytes of the tensors that the forward pass keeps for the backward pass, each once."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        task()
    return sum(kept.values())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, 1 thread, {asked.rounds} rounds")
    pushes(asked.rounds)
    encoders(asked.rounds)
    reaches(max(3, asked.rounds // 3))
