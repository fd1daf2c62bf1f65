"""What it costs to look at dreams: a model that writes unwatched, against the same with its dreams collected or shown.

    python benchmarks/dream_viewing.py [--rounds 9] [--rows 1 8] [--preset dreaming_complex]

The preset's model with random weights and 8,192 tokens; it writes 96 behind a prompt of 33. In every round all variants
take their turn, and processor time is counted, so that the machine's other load falls on all alike. Prints the median
time of a token, its ratio to writing unwatched, and what looking on adds to the rest of the same call, which does not
depend on how two calls differ by chance; then what is spent once, before the first token and on a file of each form.
"""

import argparse
import contextlib
import io
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from dreamlm.cli.console import Console
from dreamlm.cli.dream_panel import panels
from dreamlm.core.generation.dreams.collector import DreamCollector
from dreamlm.core.generation.dreams.files import FORMS, DreamFile
from dreamlm.core.generation.dreams.values import DreamRecord, DreamtSegment, DreamtText
from dreamlm.core.generation.generate import generate
from dreamlm.core.generation.sampler import Sampler
from dreamlm.core.generation.segments import CompletedSegments, OnSegments, ignore_segments
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.tokenizer import BytePair, Tokenizer
from dreamlm.presets.resolve import resolve

NEW, PROMPT, VOCAB, NEIGHBOURS = 96, 32, 8192, 5


class Terminal(io.StringIO):
    """What stderr is to a person."""

    def isatty(self) -> bool:
        return True


class Timed:
    """What looks on, and how many seconds it takes."""

    def __init__(self, watcher: OnSegments) -> None:
        self.watcher, self.seconds = watcher, 0.0

    def __call__(self, completed: CompletedSegments) -> None:
        self.seconds += seconds(lambda: self.watcher(completed))


def watchers(model: DreamLM, tokenizer: Tokenizer) -> dict[str, OnSegments]:
    def show(segment: DreamtSegment) -> None:
        for title, rows in panels(segment.passage.prompt, segment):
            Console().panel(title, rows)

    collected: list[DreamtSegment] = []
    return {
        "unwatched": ignore_segments,
        "collected": DreamCollector(model, tokenizer, NEIGHBOURS, collected.append),
        "shown": DreamCollector(model, tokenizer, NEIGHBOURS, show),
    }


def seconds(write: Callable[[], object]) -> float:
    begun = time.process_time()
    write()
    return time.process_time() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--preset", default="dreaming_complex")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    letters = random.Random(0)
    words = " ".join("".join(letters.choices("aeinorst", k=7)) for _ in range(20_000))
    tokenizer = BytePair(vocab_size=VOCAB).build([words])
    model = resolve(asked.preset).model.build(tokenizer.vocab_size)
    prompt = tokenizer.decode(tokenizer.encode(words)[:PROMPT])
    print(f"torch {torch.__version__}, 1 thread, {asked.rounds} rounds, {asked.preset}, "
          f"{sum(one.numel() for one in model.parameters()) / 1e6:.1f}M parameters")  # fmt: skip
    for rows in asked.rows:
        config = Sampler.Config(top_p=0.9, min_new_tokens=NEW, max_new_tokens=NEW, rows=rows)
        taken: dict[str, list[tuple[float, float]]] = {}
        for number in range(asked.rounds + 1):
            for name, watcher in watchers(model, tokenizer).items():
                timed = Timed(watcher)
                with contextlib.redirect_stderr(Terminal()):
                    found = seconds(partial(generate, model, tokenizer, [prompt] * rows, config, on_segments=timed))
                if number:
                    taken.setdefault(name, []).append((found / NEW, timed.seconds / (found - timed.seconds)))
        base = statistics.median(each for each, _ in taken["unwatched"])
        print(f"\n{rows} rows         ms a token of each row   ratio   looking on")
        for name, times in taken.items():
            each, share = (statistics.median(one) for one in zip(*times, strict=True))
            print(f"{name:12}{each * 1e3:22.2f}{each / base:9.3f}{share:12.1%}")
    collect = partial(DreamCollector, model, tokenizer, NEIGHBOURS, lambda segment: None)
    prepared = statistics.median(seconds(collect) for _ in range(asked.rounds))
    print(f"\nonce, before the first token: {prepared * 1e3:.0f} ms")
    files(model, tokenizer, prompt)


def files(model: DreamLM, tokenizer: Tokenizer, prompt: str) -> None:
    """Time to write the dreams of one text."""
    segments: list[DreamtSegment] = []
    collector = DreamCollector(model, tokenizer, NEIGHBOURS, segments.append)
    generate(model, tokenizer, [prompt], Sampler.Config(min_new_tokens=NEW, max_new_tokens=NEW), on_segments=collector)
    record = DreamRecord((DreamtText(prompt, "", tuple(segments)),), model.config.segment, "", False)
    print(f"\nfile of {len(segments)} segments   ms        kB")
    with tempfile.TemporaryDirectory() as folder:
        for suffix in FORMS:
            path = Path(folder) / f"dreams{suffix}"
            DreamFile.at(path).write(record)  # imports what the form needs
            found = seconds(lambda path=path: DreamFile.at(path).write(record))
            print(f"{suffix:12}{found * 1e3:14.1f}{path.stat().st_size / 1e3:10.1f}")


if __name__ == "__main__":
    main()
