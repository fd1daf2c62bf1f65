"""What it costs to look at dreams: a model that writes unwatched, against the same with its dreams collected or shown.

    python benchmarks/dream_viewing.py [--rounds 9] [--rows 1 8] [--preset dreaming_complex]

The preset's model with random weights and as many tokens as the preset says, of invented words; behind a prompt of 33
it writes as long a text as the preset does. In every round all variants take their turn, in an order that is drawn anew
(in a fixed one, the last seems slower than it is), and processor time is counted, so that the machine's other load
falls on all alike. Prints the median time of a token, its ratio to writing unwatched, what looking on adds to the rest
of the same call, which does not depend on how two calls differ by chance, and what it adds in all, with what is done
once before the first token; then what a file of each form takes.
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
from dreamlm.cli.dream_panel import SHOWN_OF_STEPS, panels
from dreamlm.core.garbage import only_new_garbage
from dreamlm.core.generation.dreams.collector import DreamCollector
from dreamlm.core.generation.dreams.files import FORMS, DreamFile
from dreamlm.core.generation.dreams.values import DreamRecord, DreamtSegment, DreamtText
from dreamlm.core.generation.generate import generate
from dreamlm.core.generation.sampler import Sampler
from dreamlm.core.generation.segments import CompletedSegments, OnSegments, ignore_segments
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.tokenizer import Tokenizer
from dreamlm.presets.resolve import resolve

PROMPT, NEIGHBOURS = 32, 5


class Terminal(io.StringIO):
    """What stderr is to a person."""

    def isatty(self) -> bool:
        return True


class Timed:
    """What looks on, and how many seconds it takes: to be made, and then."""

    def __init__(self, make: Callable[[], OnSegments]) -> None:
        begun = time.process_time()
        self.watcher = make()
        self.once, self.seconds = time.process_time() - begun, 0.0

    def __call__(self, completed: CompletedSegments) -> None:
        self.seconds += seconds(lambda: self.watcher(completed))


def watchers(model: DreamLM, tokenizer: Tokenizer) -> dict[str, Callable[[], OnSegments]]:
    console = Console()

    def show(segment: DreamtSegment) -> None:
        for title, rows in panels(segment.passage.prompt, segment):
            console.panel(title, rows)

    collected: list[DreamtSegment] = []
    return {
        "unwatched": lambda: ignore_segments,
        "collected": partial(DreamCollector, model, tokenizer, NEIGHBOURS, collected.append),
        "shown": partial(DreamCollector, model, tokenizer, NEIGHBOURS, show, SHOWN_OF_STEPS),
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
    preset = resolve(asked.preset)
    tokenizer = preset.tokenizer.build([words])
    model = preset.model.build(tokenizer.vocab_size)
    new = preset.generate.max_new_tokens
    prompt = tokenizer.decode(tokenizer.encode(words)[:PROMPT])
    chance = random.Random(1)
    print(f"torch {torch.__version__}, 1 thread, {asked.rounds} rounds, {asked.preset}, "
          f"{sum(one.numel() for one in model.parameters()) / 1e6:.1f}M parameters, {tokenizer.vocab_size:,} tokens, "
          f"{new} to write")  # fmt: skip
    for rows in asked.rows:
        config = Sampler.Config(top_p=0.9, min_new_tokens=new, max_new_tokens=new, rows=rows)
        taken: dict[str, list[tuple[float, ...]]] = {}
        for number in range(asked.rounds + 1):
            turns = list(watchers(model, tokenizer).items())
            chance.shuffle(turns)
            for name, make in turns:
                timed = Timed(make)
                with contextlib.redirect_stderr(Terminal()), only_new_garbage():
                    found = seconds(partial(generate, model, tokenizer, [prompt] * rows, config, on_segments=timed))
                if number:
                    rest = found - timed.seconds
                    shares = timed.seconds / rest, (timed.once + timed.seconds) / rest
                    taken.setdefault(name, []).append((found / new, *shares, timed.once))
        base = statistics.median(each for each, *_ in taken["unwatched"])
        print(f"\n{rows} rows         ms a token of each row   ratio   looking on   in all   once, ms")
        for name in watchers(model, tokenizer):
            times = taken[name]
            each, on, whole, once = (statistics.median(one) for one in zip(*times, strict=True))
            print(f"{name:12}{each * 1e3:22.2f}{each / base:9.3f}{on:12.1%}{whole:9.1%}{once * 1e3:11.0f}")
    files(model, tokenizer, prompt, new)


def files(model: DreamLM, tokenizer: Tokenizer, prompt: str, new: int) -> None:
    """Time to write the dreams of one text."""
    segments: list[DreamtSegment] = []
    collector = DreamCollector(model, tokenizer, NEIGHBOURS, segments.append)
    generate(model, tokenizer, [prompt], Sampler.Config(min_new_tokens=new, max_new_tokens=new), on_segments=collector)
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
