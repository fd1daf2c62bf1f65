"""What it costs a model trained on windows of 256 tokens to read 1,024, with and without a method of extension.

    python benchmarks/extension.py TEXT.jsonl [--tokens 1000000] [--seeds 0 1] [--continued 131072]

Trains one small model for each kind of position and seed, then measures each way of reading longer windows on the same
held-out documents: the loss at 1,024 tokens, in all and by the place within the window. `continued` trains some of them
further, at 1,024, and measures again. Documents follow one another without boundaries, so that every position occurs.
"""

import argparse
import math
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dreamlm.core.evaluation.score import score
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.nn.extension import TABLE, extended
from dreamlm.core.nn.positions.scaling import LinearScaling
from dreamlm.core.objectives.causal import CausalObjective
from dreamlm.core.rng import derive_seed
from dreamlm.core.tokenizer import BytePair
from dreamlm.core.training.backend.backend import on_device
from dreamlm.core.training.optim import AdamW, Muon
from dreamlm.core.training.schedules import WarmupStableDecay
from dreamlm.core.types import HeldOut
from dreamlm.data_sources.corpus import Corpus
from dreamlm.data_sources.prepare import Preparation
from dreamlm.data_sources.stream import CorpusStream
from dreamlm.presets.schema import DataConfig

TRAINED, LONG = 256, 1024
KINDS = ("rope", "learned", "alibi", "none")
RANGES = ((0, 256), (256, 512), (512, 1024))
STEP_TOKENS = 16 * TRAINED
HELD_OUT_TOKENS = 65_536
CONTINUED = {"nothing", "YaRN", "interpolated table", "last row repeated"}


@dataclass(frozen=True)
class Trial:
    """One way to read longer windows."""

    name: str
    config: DreamLM.Config
    weights: Mapping[str, Tensor]

    def build(self, vocab_size: int) -> DreamLM:
        model = self.config.build(vocab_size)
        model.load_state_dict(dict(self.weights))
        return model


def ways(model: DreamLM) -> Iterator[Trial]:
    """Every way to read `LONG` tokens that suits the model's positions; doing nothing comes first."""
    config, weights = model.config, {name: tensor.clone() for name, tensor in model.state_dict().items()}
    longer = DreamLM.Config.model_validate(config.model_dump() | {"seq_length": LONG})
    if TABLE in weights:
        table, more = weights[TABLE], LONG - TRAINED
        yield Trial(
            "rows of zeros", longer, {**weights, TABLE: torch.cat([table, table.new_zeros(more, table.shape[1])])}
        )
        yield Trial("last row repeated", longer, {**weights, TABLE: torch.cat([table, table[-1:].expand(more, -1)])})
        yield Trial("interpolated table", *extended(config, weights, LONG))
        return
    yield Trial("nothing", longer, weights)
    if config.positions.type != "rope":
        return
    linear = config.positions.model_copy(update={"scaling": LinearScaling(factor=LONG / TRAINED)})
    yield Trial("linear interpolation", longer.model_copy(update={"positions": linear}), weights)
    yield Trial("YaRN", *extended(config, weights, LONG))
    for layers in ("lower_half", "upper_half", tuple(range(1, config.num_layers))):
        named = layers if isinstance(layers, str) else "all but the lowest layer"
        yield Trial(f"YaRN, {named}", *extended(config, weights, LONG, layers))


def train(model: DreamLM, corpus: Corpus, tokens: int, seed: int, rate: float) -> None:
    """`tokens` of training on windows of the model's own length, with the recipe of the tiny preset."""
    length, device = model.config.seq_length, torch.device("cpu")
    rows, steps = STEP_TOKENS // length, tokens // STEP_TOKENS
    stream = CorpusStream(corpus, data_config(), length, seed)
    objective = CausalObjective(model, 0.0)
    others = AdamW.Config(learning_rate=0.01 * rate)
    optimizers = Muon.Config(learning_rate=0.005 * rate, others=others).build(list(model.named_parameters()))
    schedule = WarmupStableDecay.Config(warmup_steps=20, decay_fraction=0.5).build(steps)
    cursor = stream.start()
    for step in range(steps):
        windows, cursor = stream.draw(cursor, rows)
        with torch.autocast("cpu", torch.bfloat16):
            losses = objective(*on_device(stream.read(windows), device))
        (losses.objectives["token"] / losses.tokens).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizers.step(schedule.factor(step))
        optimizers.zero_grad()


def losses(model: DreamLM, held_out: HeldOut) -> list[float]:
    """Nats per token: in all, then in each of `RANGES` that windows reach."""
    scores = score(model, held_out, rows=8)
    nll_T, tokens_T = scores.position_nll_T, scores.position_tokens_T
    spans = [slice(None), *(slice(*span) for span in RANGES if span[0] < len(nll_T))]
    return [float(nll_T[span].sum() / tokens_T[span].sum()) for span in spans]


def data_config(path: str = "-") -> DataConfig:
    return DataConfig.model_validate({"sources": [{"type": "jsonl", "paths": path}], "packing": "concat"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", type=Path)
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--continued", type=int, default=0, help="tokens of further training at the new length")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--folder", type=Path, default=None, help="keep the corpus there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        preparation = Preparation.Config.model_validate(
            {"sources": [{"type": "jsonl", "paths": str(options.text.absolute())}], "validation_fraction": 0.05}
        )
        tokenizer, cache = BytePair(vocab_size=2048), folder / "cache"
        request = Preparation(preparation, tokenizer, folder / "corpus", cache_folder=cache, base_folder=folder)
        corpus = request.run()
        for seed in options.seeds:
            for kind in options.kinds:
                run(corpus, kind, seed, options.tokens, options.continued)


def run(corpus: Corpus, kind: str, seed: int, tokens: int, continued: int) -> None:
    vocab_size = corpus.tokenizer().vocab_size
    sizes = {"hidden_size": 128, "num_layers": 4, "num_heads": 4, "seq_length": TRAINED}
    torch.manual_seed(derive_seed(seed, "weights"))
    model = DreamLM.Config.model_validate({**sizes, "positions": kind}).build(vocab_size)
    begin = time.perf_counter()
    train(model, corpus, tokens, seed, rate=1.0)
    held_out = corpus.held_out(LONG, HELD_OUT_TOKENS, "concat")
    report(kind, seed, f"windows of {TRAINED}", losses(model, corpus.held_out(TRAINED, HELD_OUT_TOKENS, "concat")))
    for trial in ways(model):
        longer = trial.build(vocab_size)
        report(kind, seed, trial.name, losses(longer, held_out))
        if continued and trial.name in CONTINUED:
            train(longer, corpus, continued, seed + 1000, rate=0.1)
            report(kind, seed, f"{trial.name}, trained on", losses(longer, held_out))
    print(
        f"# {kind}, seed {seed}: {held_out.tokens:,} held-out tokens, {time.perf_counter() - begin:.0f} s", flush=True
    )


def report(kind: str, seed: int, name: str, found: list[float]) -> None:
    cells = [f"{value:7.4f}" for value in found] + ["      -"] * (1 + len(RANGES) - len(found))
    print(f"{kind:8} {seed}  {name:34} " + "  ".join(cells) + f"  ppl {math.exp(found[0]):8.1f}", flush=True)


if __name__ == "__main__":
    main()
