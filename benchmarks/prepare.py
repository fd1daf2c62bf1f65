"""How fast text becomes a corpus, against bare `tokenizers.encode_batch` on the same documents.

    python benchmarks/prepare.py --text FILE_OR_FOLDER --jsonl FILE_OR_FOLDER [--rounds 5] [--workers 2]

Each round does everything once, in a random order, in one process. `bare`: `encode_batch` of all documents at once,
with the tokenizer of the corpus, ids thrown away. `stage`: reading the spools, encoding, writing and hashing the
shards; once with the encoder that proves itself, once with `tokenizers`. `prepare`: everything from the files to the
finished corpus, training the tokenizer included. Rates are MB of UTF-8 text a second, medians over rounds; ratios are
medians of the ratios within a round; processor time is that of the process and the workers it waited for. Peak memory
is that of a fresh process which does `prepare` alone; its workers have their own.
"""

import argparse
import multiprocessing
import os
import random
import re
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path

from dreamlm.core.tokenizer import BytePair
from dreamlm.data_sources.corpus import Corpus
from dreamlm.data_sources.manifest import Split
from dreamlm.data_sources.preparation.draw import Drawing
from dreamlm.data_sources.preparation.encoders import EncoderName, choose_encoder
from dreamlm.data_sources.preparation.sample import training_sample
from dreamlm.data_sources.preparation.split import SplitSpool, plan_shards, split_spool
from dreamlm.data_sources.preparation.tokenise import write_shards
from dreamlm.data_sources.prepare import Preparation
from dreamlm.data_sources.progress import Silence
from dreamlm.data_sources.sources.source import SourceContext

SPLITS: tuple[Split, ...] = ("train", "validation")


def whole(config: Preparation.Config, folder: Path, workers: int) -> Corpus:
    """Everything, into a folder that is not there yet."""
    here = Path.cwd()
    cache = folder / "../cache"
    return Preparation(config, BytePair(), folder, workers=workers, cache_folder=cache, base_folder=here).run()


def peak_megabytes(config: Preparation.Config, folder: Path, workers: int) -> float:
    """The most memory that a fresh process had resident while preparing. Linux only."""
    spawn = multiprocessing.get_context("spawn")
    receiver, sender = spawn.Pipe(duplex=False)
    process = spawn.Process(target=_prepare_and_tell, args=(config, folder, workers, sender))
    process.start()
    peak: float = receiver.recv()
    process.join()
    return peak


def _prepare_and_tell(config: Preparation.Config, folder: Path, workers: int, sender: Connection) -> None:
    whole(config, folder, workers)
    status = Path("/proc/self/status").read_text()
    sender.send(int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1000)


def spooled(config: Preparation.Config, folder: Path) -> list[SplitSpool]:
    """The documents of all sources, spooled and split."""
    folder.mkdir()
    context = SourceContext(Path.cwd(), folder, 1, config.min_text_length)
    sources = [source.build(context) for source in config.sources]
    drawn = Drawing(folder, config.deduplicate, config.validation_documents, Silence(), lambda spooled_bytes: None)
    spools = [source.spool for source in drawn.run(sources, [None] * len(sources)) if source.spool is not None]
    return [split_spool(spool, config.validation_fraction, config.validation_documents) for spool in spools]


def stage(sources: list[SplitSpool], corpus: Corpus, folder: Path, encoder: EncoderName, workers: int) -> None:
    """The tokenising stage alone, into a new folder."""
    corpus.tokenizer().save(folder)
    plans = [plan for split in SPLITS for source in sources for plan in plan_shards(source, split, 2**23)]
    for split in SPLITS:
        (folder / split).mkdir()
    write_shards(plans, folder, encoder, workers, Silence())


def processor_seconds() -> float:
    """Of this process, all of its threads, and the workers that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", action="append", default=[])
    parser.add_argument("--jsonl", action="append", default=[])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=None, help="a folder on the disk to measure")
    options = parser.parse_args()
    kinds = [("text", path) for path in options.text] + [("jsonl", path) for path in options.jsonl]
    sources = [{"type": kind, "paths": path, "name": f"s{number}"} for number, (kind, path) in enumerate(kinds)]
    config = Preparation.Config.model_validate({"sources": sources})
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder, numbers = Path(name), count()
        corpus = whole(config, folder / "corpus", options.workers)
        spools = spooled(config, folder / "spools")
        tokenizer = corpus.tokenizer()
        chosen, why = choose_encoder(tokenizer, (text.encode() for text in training_sample(spools, 2**19)))
        documents = [
            text.decode()
            for source in spools
            for _, entries in source.spool.entries()
            for _, texts in source.spool.texts(entries, 2**20)
            for text in texts
        ]
        megabytes = sum(source.spool.text_bytes for source in spools) / 1e6
        actions: dict[str, Callable[[], object]] = {
            "bare": lambda: tokenizer.backend.encode_batch(documents, add_special_tokens=False),
            "stage": lambda: stage(spools, corpus, folder / f"{next(numbers)}", chosen, options.workers),
            "stage, tokenizers": lambda: stage(
                spools, corpus, folder / f"{next(numbers)}", "tokenizers", options.workers
            ),
            "prepare": lambda: whole(config, folder / f"{next(numbers)}", options.workers),
        }
        walls: dict[str, list[float]] = {action: [] for action in actions}
        cpus: dict[str, list[float]] = {action: [] for action in actions}
        order = random.Random(0)
        for _ in range(options.rounds):
            for action in order.sample(sorted(actions), len(actions)):
                wall, cpu = time.perf_counter(), processor_seconds()
                actions[action]()
                walls[action].append(time.perf_counter() - wall)
                cpus[action].append(processor_seconds() - cpu)
        print(f"{megabytes:.1f} MB in {len(documents)} documents, workers {options.workers}; {chosen}: {why}")
        print(f"{'':20}{'MB/s':>8}{'x bare':>8}{'MB/CPU s':>10}{'x bare':>8}")
        for action in actions:
            wall_ratio = statistics.median(b / a for a, b in zip(walls[action], walls["bare"], strict=True))
            cpu_ratio = statistics.median(b / a for a, b in zip(cpus[action], cpus["bare"], strict=True))
            wall_rate, cpu_rate = (megabytes / statistics.median(times[action]) for times in (walls, cpus))
            print(f"{action:20}{wall_rate:8.1f}{wall_ratio:8.2f}{cpu_rate:10.1f}{cpu_ratio:8.2f}")
        print(f"peak memory of prepare: {peak_megabytes(config, folder / 'peak', options.workers):.0f} MB")


if __name__ == "__main__":
    main()
