"""Time and work of a mixture of experts against the evaluation of all experts, and against a dense layer.

    python benchmarks/experts.py [--precision bf16 fp32] [--rounds 20]

One feed-forward layer, forward and backward, fresh weights and random tokens, 8 experts of which 2 compute:

    all     every expert computes every token; the gate's weights pick, which gives the same result
    gather  only the chosen ones, dispatched the usual way: torch's indexing and `index_add`
    dense   a SwiGLU with the weights that one token meets

They take turns, so that a busy machine slows all alike. Prints the median over rounds of each one's time to that of
the layer (above 1: the layer is faster), and the ratio of floating-point operations as torch counts them.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from dreamlm.core.nn.feedforward.moe import MixtureOfExperts
from dreamlm.core.nn.feedforward.swiglu import SwiGLU
from dreamlm.core.nn.initialisation import initialise
from dreamlm.core.nn.phase import Phase
from dreamlm.core.nn.positions.positions import Unplaced
from dreamlm.core.nn.signal import Segment

SHAPES = [(256, 704, 4096), (384, 1024, 4096), (512, 1376, 2048)]
"""Width, intermediate size of the dense layer, tokens."""


@dataclass(frozen=True)
class Layers:
    sparse: MixtureOfExperts
    dense: SwiGLU
    segment: Segment

    def layer(self, hidden_BTD: Tensor) -> Tensor:
        return self.sparse(hidden_BTD, self.segment).hidden

    def all(self, hidden_BTD: Tensor) -> Tensor:
        items_ND = hidden_BTD.flatten(0, 1)
        routing = self.sparse.gate(items_ND, torch.ones(len(items_ND), dtype=torch.bool))
        weight_NE = torch.zeros(len(items_ND), len(self.sparse.experts)).scatter(
            1, routing.expert_NK, routing.weight_NK
        )
        results = [expert(items_ND) * weight_NE[:, [index]] for index, expert in enumerate(self.sparse.experts)]
        return torch.stack(results).sum(dim=0).view_as(hidden_BTD)

    def gather(self, hidden_BTD: Tensor) -> Tensor:
        items_ND = hidden_BTD.flatten(0, 1)
        routing = self.sparse.gate(items_ND, torch.ones(len(items_ND), dtype=torch.bool))
        slot_S = routing.expert_NK.flatten().argsort(stable=True)
        item_S = slot_S // routing.expert_NK.shape[1]
        parts = items_ND[item_S].split(routing.count_E.tolist())
        results = torch.cat([expert(part) for expert, part in zip(self.sparse.experts, parts, strict=True)])
        weighted = results * routing.weight_NK.flatten()[slot_S, None]
        return torch.zeros_like(items_ND).index_add(0, item_S, weighted).view_as(hidden_BTD)

    def plain(self, hidden_BTD: Tensor) -> Tensor:
        return self.dense(hidden_BTD, self.segment).hidden


def build(width: int, size: int, tokens: int) -> Layers:
    torch.manual_seed(0)
    layers = MixtureOfExperts.Config().build(width, size, 1), SwiGLU.Config().build(width, size, 1)
    for layer in layers:
        initialise(layer, 1)
    documents = torch.zeros(8, tokens // 8, dtype=torch.int32)
    phase = Phase(0, tokens // 8, tokens // 8, ())
    return Layers(*layers, Segment(documents, documents.long(), None, Unplaced(), phase))


def measure(width: int, size: int, tokens: int, precision: str, rounds: int) -> None:
    layers = build(width, size, tokens)
    hidden_BTD = torch.randn(8, tokens // 8, width, requires_grad=True)
    peers = {"layer": layers.layer, "all": layers.all, "gather": layers.gather, "dense": layers.plain}

    def run(compute: Callable[[Tensor], Tensor]) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            mapped = compute(hidden_BTD)
        mapped.float().square().sum().backward()

    work = {}
    for name, compute in peers.items():
        with FlopCounterMode(display=False) as counter:
            run(compute)
        work[name] = counter.get_total_flops()
    seconds: dict[str, list[float]] = {name: [] for name in peers}
    for _ in range(rounds):
        for name, compute in peers.items():
            begun = time.perf_counter()
            run(compute)
            seconds[name].append(time.perf_counter() - begun)
    print(f"{precision} width {width}, {tokens} tokens: layer {1e3 * statistics.median(seconds['layer']):.1f} ms")
    for name in ("all", "gather", "dense"):
        ratio = statistics.median(theirs / ours for theirs, ours in zip(seconds[name], seconds["layer"], strict=True))
        print(f"  {name:7} time x{ratio:.2f}, work x{work[name] / work['layer']:.3f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--precision", nargs="+", choices=["bf16", "fp32"], default=["bf16", "fp32"])
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, load {load:.1f}, {arguments.rounds} rounds")
    for precision in arguments.precision:
        for shape in SHAPES:
            measure(*shape, precision, arguments.rounds)
