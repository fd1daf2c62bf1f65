"""Time of an optimizer step under DeepSpeed ZeRO against plain PyTorch in one process, on the same global batch.

    python benchmarks/zero_overhead.py [bf16|fp32]

Starts two ranks with half of the cores each. In every round the first rank takes one step of plain PyTorch on all
cores while the other waits, then both take one step of each ZeRO stage; so the machine's other load falls on all
alike. Prints the median time of a step and its ratio to plain PyTorch's. At stage 0 nothing is divided; what is left
is the price of two processes.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import distributed

from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.objectives.causal import CausalObjective
from dreamlm.core.training.backend import process_group
from dreamlm.core.training.backend.backend import Backend, WindowBatch
from dreamlm.core.training.backend.launch import launch
from dreamlm.core.training.backend.process_group import Place
from dreamlm.core.training.backend.single import SingleProcess
from dreamlm.core.training.optim import AdamW
from dreamlm.core.types import Batch

RANKS, ROUNDS, ROWS, VOCAB, WEIGHTS = 2, 8, 4, 8192, {"token": 1.0}
MODEL = DreamLM.Config(hidden_size=320, num_layers=6, num_heads=5, seq_length=256)


def objective() -> CausalObjective:
    torch.manual_seed(0)
    return CausalObjective(MODEL.build(VOCAB), 0.0)


def micro_batches(backend: Backend) -> list[WindowBatch]:
    tokens = np.random.default_rng(0).integers(0, VOCAB, (2 * RANKS, ROWS, MODEL.seq_length + 1))
    documents = np.zeros(tokens.shape[1:], np.int32)
    sources = np.zeros(ROWS, np.int32)
    mine = range(backend.rank, len(tokens), backend.world_size)
    return [WindowBatch(Batch(tokens[number], documents, sources), seed=number) for number in mine]


def timed(step: Callable[[], object]) -> float:
    distributed.barrier()
    begun = time.perf_counter()
    step()
    distributed.barrier()
    return time.perf_counter() - begun


def rank(precision: str) -> None:
    place = Place.from_environment()
    process_group.join(place, torch.device("cpu"))
    from dreamlm.core.training.backend.zero import ZeroBackend

    cores = len(os.sched_getaffinity(0))
    backends: dict[str, Backend] = {
        "torch": SingleProcess(objective(), AdamW.Config(), WEIGHTS, 1.0, precision, compile=False)
    }
    for stage in range(4):
        backends[f"zero {stage}"] = ZeroBackend(
            objective(), AdamW.Config(), WEIGHTS, 1.0, precision, False, stage, place
        )
    seconds: dict[str, list[float]] = {name: [] for name in backends}
    for number in range(ROUNDS + 1):
        for name, backend in backends.items():
            alone = backend.world_size == 1
            torch.set_num_threads(cores if alone else max(1, cores // RANKS))

            def step(backend: Backend = backend, alone: bool = alone) -> None:
                if place.rank == 0 or not alone:
                    backend.forward_backward(micro_batches(backend))
                    backend.update(1.0)

            took = timed(step)
            if number:  # the first round warms up
                seconds[name].append(took)
    if place.rank == 0:
        base = statistics.median(seconds["torch"])
        parameters = sum(parameter.numel() for parameter in backends["torch"].model.parameters())
        print(f"{parameters / 1e6:.1f} M parameters, {precision}, {cores} cores, {ROUNDS} rounds")
        for name, taken in seconds.items():
            median = statistics.median(taken)
            print(f"{name:8}{median:8.3f} s{median / base:7.2f}x")


if __name__ == "__main__":
    precision = sys.argv[1] if len(sys.argv) > 1 else "bf16"
    if "RANK" in os.environ:
        rank(precision)
    else:
        ended = launch([sys.executable, __file__, precision], RANKS)
        print(ended.output, file=sys.stderr, end="")
        sys.exit(ended.exit_code)
