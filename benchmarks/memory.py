"""Peak memory of long windows: attention that is never held as T x T, cross-entropy that never holds all logits.

    python benchmarks/memory.py [--lengths 1024 2048 4096] [--only CASE ...]

Each figure is one forward and backward pass in a process of its own: the peak resident memory above that before the
pass. `attention`: a decoder at length T against the same decoder with attention written out as softmax(q k^T) v.
`head`: the chunked cross-entropy against `F.cross_entropy` on all logits, for T tokens and the vocabulary of GPT-2.
"""

import argparse
import ctypes
import multiprocessing
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dreamlm.core.heads.lm import LanguageModelHead
from dreamlm.core.nn.attention import AttentionActivation
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.objectives.causal import CausalObjective

WIDTH, HEADS, LAYERS, ROWS = 256, 4, 4, 1
VOCAB, LARGE_VOCAB = 2048, 50_257


def written_out(query: Tensor, key: Tensor, value: Tensor, **options: object) -> Tensor:
    """softmax(q k^T / sqrt(K)) v with every weight held."""
    length = query.shape[2]
    scores = query @ key.transpose(2, 3) / query.shape[3] ** 0.5
    future = torch.ones(length, length, dtype=torch.bool).triu(1)
    return scores.masked_fill(future, -torch.inf).softmax(dim=-1) @ value


def attention(
    length: int, naive: bool, packed: bool = False, activation: AttentionActivation = "softmax"
) -> Callable[[], None]:
    sizes = {"hidden_size": WIDTH, "num_layers": LAYERS, "num_heads": HEADS, "seq_length": length}
    model = DreamLM.Config.model_validate({**sizes, "attention_activation": activation}).build(VOCAB)
    objective = CausalObjective(model, 0.0)
    tokens = torch.randint(0, VOCAB, (ROWS, length + 1))
    documents = (torch.arange(length + 1) // 300).expand(ROWS, -1).int() if packed else torch.zeros_like(tokens).int()

    def step() -> None:
        kernel = F.scaled_dot_product_attention
        if naive:
            F.scaled_dot_product_attention = written_out
        objective(tokens, documents, packed).objectives["token"].backward()
        F.scaled_dot_product_attention = kernel

    return step


def head(length: int, naive: bool) -> Callable[[], None]:
    part = LanguageModelHead(torch.nn.Parameter(torch.randn(LARGE_VOCAB, WIDTH) * 0.02))
    hidden = torch.randn(length, WIDTH, requires_grad=True)
    targets = torch.randint(0, LARGE_VOCAB, (length,))

    def step() -> None:
        if naive:
            F.cross_entropy(F.linear(hidden, part.weight), targets, reduction="sum").backward()
        else:
            part(hidden, targets, 0.0)[0].backward()

    return step


CASES: dict[str, tuple[Callable[..., Callable[[], None]], dict[str, Any]]] = {
    "attention, dreamlm": (attention, {"naive": False}),
    "attention, dreamlm, packed documents": (attention, {"naive": False, "packed": True}),
    "attention, sparsemax": (attention, {"naive": False, "activation": "sparsemax"}),
    "attention, written out": (attention, {"naive": True}),
    "head, dreamlm": (head, {"naive": False}),
    "head, F.cross_entropy": (head, {"naive": True}),
}


def resident() -> int:
    """Bytes of this process in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def measure(name: str, length: int, queue: "multiprocessing.Queue[float]") -> None:
    torch.manual_seed(0)
    build, options = CASES[name]
    step = build(length, **options)
    build(32, **options)()  # what is allocated once
    ctypes.CDLL(None).malloc_trim(0)
    before, peak, running = resident(), 0, True

    def watch() -> None:
        nonlocal peak
        while running:
            peak = max(peak, resident())
            time.sleep(0.001)

    watcher = threading.Thread(target=watch)
    watcher.start()
    step()
    running = False
    watcher.join()
    queue.put((peak - before) / 1e6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", nargs="+", type=int, default=[1024, 2048, 4096])
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES), metavar="CASE")
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    print(f"{'MB at T =':38}" + "".join(f"{length:>10}" for length in options.lengths))
    for name in options.only:
        line = ""
        for length in options.lengths:
            queue: multiprocessing.Queue[float] = context.Queue()
            process = context.Process(target=measure, args=(name, length, queue))
            process.start()
            line += f"{queue.get():10,.0f}"
            process.join()
        print(f"{name:38}{line}", flush=True)


if __name__ == "__main__":
    main()
