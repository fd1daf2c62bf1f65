"""Small inputs for whole preparations, and one function to prepare them; runnable, so that a test can kill it."""

import sys
from collections.abc import Sequence
from pathlib import Path

from dreamlm.core.tokenizer import BytePair
from dreamlm.data_sources.corpus import Corpus
from dreamlm.data_sources.preparation.encoders import GigatokenEncoder, TokenizersEncoder
from dreamlm.data_sources.prepare import Preparation

PHRASE = "the of and to in is that it was for on are as with his they at be this from have or by one had not"
WORDS = PHRASE.split()


for encoder in (GigatokenEncoder, TokenizersEncoder):
    encoder.process_bytes = 1000  # as if starting a process were cheap, so that small inputs use several


def sentence(number: int) -> str:
    """A line of words that no other number has."""
    return f"{number}: " + " ".join(WORDS[(number * 7 + n * n) % len(WORDS)] for n in range(12 + number % 9))


def write_texts(folder: Path, files: int, documents: int, first: int = 0) -> None:
    """JSON Lines files of different documents."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in range(files):
        numbers = range(first + file * documents, first + (file + 1) * documents)
        lines = [
            '{"text": "' + " ".join(sentence(number + n) for n in range(3)) + f' {number}"}}' for number in numbers
        ]
        (folder / f"part-{file}.jsonl").write_text("\n".join(lines) + "\n")


def config_of(*sources: dict[str, object], **options: object) -> Preparation.Config:
    """A preparation of the sources with small shards."""
    return Preparation.Config.model_validate({"shard_text_bytes": 4096, **options, "sources": list(sources)})


def prepared(config: Preparation.Config, folder: Path, base: Path, trained_on: str = "", **arguments: object) -> Corpus:
    """The corpus of the configuration, with a small tokenizer."""
    known = {"cache_folder": base / "cache", "base_folder": base, **arguments}
    tokenizer = BytePair(vocab_size=300, sample_bytes=20_000)
    return Preparation(config, tokenizer, folder, **known).run(trained_on)  # type: ignore[arg-type]


def content(folder: Path) -> dict[str, bytes]:
    """Every file below the folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def main(arguments: Sequence[str]) -> None:
    """`BASE FOLDER WORKERS`: prepare `BASE/texts` into FOLDER."""
    base, folder, workers = Path(arguments[0]), Path(arguments[1]), int(arguments[2])
    prepared(config_of({"type": "jsonl", "paths": "texts"}), folder, base, workers=workers)


if __name__ == "__main__":
    main(sys.argv[1:])
