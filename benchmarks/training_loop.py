"""Training throughput of the loop against a bare hand-written PyTorch loop: same model, same batches, one process.

    python benchmarks/training_loop.py [--size small|10m] [--precision bf16 fp32] [--rounds 5]

The two take turns, a few steps each, so that a busy machine slows both. The loop runs with everything a user has on:
metrics file, TensorBoard, data read from memory-mapped shards. The bare loop has only forward, backward, clip, step.
Prints the median ratio of tokens per second, tokens per second and MFU of each.
"""

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch.nn import functional as F

from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.objectives.causal import CausalObjective
from dreamlm.core.tokenizer import BytePair
from dreamlm.core.training.backend.backend import Tensors, on_device
from dreamlm.core.training.backend.single import SingleProcess
from dreamlm.core.training.config import TrainingConfig
from dreamlm.core.training.hooks import Hook, Hooks, StepReport
from dreamlm.core.training.loop import Trainer
from dreamlm.core.training.meters import matmul_peak, training_flops_per_token
from dreamlm.core.training.optim import AdamW
from dreamlm.core.training.recorders import MetricsFile
from dreamlm.core.training.state import TrainingState
from dreamlm.core.training.surroundings import Surroundings, Validation
from dreamlm.core.training.tensorboard import TensorBoard
from dreamlm.data_sources.prepare import Preparation
from dreamlm.data_sources.stream import CorpusStream
from dreamlm.presets.schema import DataConfig

SIZES = {
    "small": DreamLM.Config(hidden_size=192, num_layers=4, num_heads=6, seq_length=128),
    "10m": DreamLM.Config(hidden_size=320, num_layers=6, num_heads=5, seq_length=256),
}
ROWS, STEPS = 16, 4


class Seconds(Hook):
    def __init__(self) -> None:
        self.steps: list[float] = []

    def on_step(self, report: StepReport) -> None:
        self.steps.append(report.seconds)


class Nowhere:
    """A saver that keeps nothing: the cost of a snapshot is measured by benchmarks/snapshot.py."""

    def save(self, state: TrainingState, tensors: Tensors) -> Path:
        return Path()

    def roll_back(self) -> int:
        return 0


def corpus_stream(folder: Path, seq_length: int) -> CorpusStream:
    config = Preparation.Config.model_validate({"sources": ["python_docs"]})
    request = Preparation(
        config, BytePair(), folder / "corpus", workers=2, cache_folder=folder / "cache", base_folder=folder
    )
    return CorpusStream(request.run(), DataConfig.model_validate({"sources": ["python_docs"]}), seq_length, seed=0)


class Loop:
    """Our trainer, a few steps at a time."""

    def __init__(self, model: DreamLM, stream: CorpusStream, precision: str, folder: Path) -> None:
        self._seconds = Seconds()
        config = TrainingConfig(per_gpu_batch_size=ROWS, eval_tokens=10**12, save_interval_seconds=1e9)
        backend = SingleProcess(CausalObjective(model, 0.0), config.optimizer, {"token": 1.0}, 1.0, precision, False)
        hooks = Hooks([MetricsFile(folder / "metrics.jsonl"), TensorBoard(folder / "tensorboard"), self._seconds])
        around = Surroundings(Nowhere(), hooks, lambda: Validation(1.0, 1.0, {}), lambda step: [], 1)
        self._make = lambda tokens: Trainer(
            config.model_copy(update={"train_tokens": tokens}), backend, stream, config.schedule.build(10_000), around
        )
        self._state = TrainingState(0, 10_000, ROWS, ROWS, precision, "", stream.start())
        self._tokens = STEPS * ROWS * stream.seq_length

    def run(self) -> float:
        """Seconds per step."""
        self._seconds.steps.clear()
        trainer = self._make(self._state.tokens + self._tokens)
        self._state = trainer.run(replace(self._state, early_losses=()), fresh=False)
        return sum(self._seconds.steps) / STEPS


class Bare:
    """What one would write by hand. `chunked` uses our head's loss, else torch's cross-entropy on all logits."""

    def __init__(self, model: DreamLM, stream: CorpusStream, precision: str, chunked: bool) -> None:
        self._model, self._stream, self._chunked = model, stream, chunked
        self._objective = CausalObjective(model, 0.0)
        self._optimizer = AdamW.Config().build_torch(list(model.named_parameters()))
        self._autocast = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")
        self._cursor = stream.start()

    def run(self) -> float:
        batches = []
        for _ in range(STEPS):
            windows, self._cursor = self._stream.draw(self._cursor, ROWS)
            batches.append(on_device(self._stream.read(windows), torch.device("cpu")))
        begin = time.perf_counter()
        for tokens, documents, boundaries in batches:
            with self._autocast:
                loss = self._loss(tokens, documents, boundaries)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)
            loss.item()
        return (time.perf_counter() - begin) / STEPS

    def _loss(self, tokens: torch.Tensor, documents: torch.Tensor, boundaries: bool) -> torch.Tensor:
        if self._chunked:
            losses = self._objective(tokens, documents, boundaries)
            return losses.objectives["token"] / losses.tokens
        carry = self._model.start(len(tokens), records=False)
        hidden = self._model(tokens[:, :-1], documents[:, :-1], carry, boundaries).hidden
        logits = F.linear(hidden, self._model.head.weight)
        return F.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="10m")
    parser.add_argument("--precision", nargs="+", choices=["bf16", "fp32"], default=["bf16", "fp32"])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    config = SIZES[options.size]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        stream = corpus_stream(folder, config.seq_length)
        vocab_size = stream.corpus.tokenizer().vocab_size
        for precision in options.precision:
            measure(config, vocab_size, stream, precision, options.rounds, folder)


def measure(
    config: DreamLM.Config, vocab_size: int, stream: CorpusStream, precision: str, rounds: int, folder: Path
) -> None:
    def model() -> DreamLM:
        torch.manual_seed(0)
        return config.build(vocab_size)

    candidates = {
        "dreamlm loop": Loop(model(), stream, precision, folder),
        "bare, same loss": Bare(model(), stream, precision, chunked=True),
        "bare, F.cross_entropy": Bare(model(), stream, precision, chunked=False),
    }
    for candidate in candidates.values():
        candidate.run()
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, candidate in candidates.items():
            times[name].append(candidate.run())
    measured = model()
    flops = training_flops_per_token(measured, config.seq_length)
    peak = matmul_peak(torch.device("cpu"), torch.bfloat16 if precision == "bf16" else torch.float32)
    parameters = sum(p.numel() for p in measured.parameters())
    print(f"{precision}, {parameters / 1e6:.1f}M parameters, {ROWS} x {config.seq_length} tokens a step, "
          f"{torch.get_num_threads()} threads, matmul peak {peak / 1e9:,.0f} GFLOP/s")  # fmt: skip
    ours = times["dreamlm loop"]
    for name, seconds in times.items():
        speed = ROWS * config.seq_length / statistics.median(seconds)
        ratio = statistics.median(other / mine for other, mine in zip(seconds, ours, strict=True))
        suffix = "" if seconds is ours else f"   dreamlm / this: {ratio:.3f}"
        print(f"  {name:22} {speed:9,.0f} tokens/s  MFU {speed * flops / peak:5.1%}{suffix}")


if __name__ == "__main__":
    main()
