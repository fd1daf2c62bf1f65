"""Which n-grams of tokens the training text of a corpus has: a sorted file of 64-bit hashes, built once.

1. Read the training documents in pieces; hash every n-gram that lies within one document.
2. Sort each piece and drop what it repeats: a run. The runs go one behind the other into a file of their own.
3. Merge: cut the range of hashes into as many parts as there are pieces, take each part from every run, sort, append.
4. Give the file its name, once the disk has it.

A hash says `seen` falsely with probability N / 2**64 for N different n-grams: 5e-11 for a thousand million of them.
Memory is bounded by the piece, whatever the corpus; the disk holds 8 bytes a token twice while it is built.
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias, final

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from dreamlm.core.durable import sync_folder
from dreamlm.core.errors import OutOfSpace, RangeError, is_out_of_space
from dreamlm.data_sources.corpus import Corpus
from dreamlm.data_sources.durable import free_bytes, sync_file
from dreamlm.data_sources.progress import Progress, Silence
from dreamlm.data_sources.sequence import TokenSequence

Hashes: TypeAlias = npt.NDArray[np.uint64]

PIECE_TOKENS = 1 << 20
"""Read, hashed and sorted at once."""
FILE_DTYPE = np.dtype("<u8")
HASH_VERSION = 1
"""Part of a file's name; another way of hashing has another number."""


@final
class SeenNgrams:
    """The n-grams of the text of a corpus's training documents, without end-of-document tokens; memory-mapped."""

    def __init__(self, n: int, hashes: Hashes) -> None:
        """`hashes` of all n-grams, ascending."""
        self.n, self._hashes = n, hashes

    @classmethod
    def open(cls, corpus: Corpus, n: int, cache_folder: Path, progress: Progress | None = None) -> "SeenNgrams":
        """The n-grams of the corpus from the file in the cache, which is built when it is missing or damaged.

        Of several processes one builds, the others wait. Cost: O(N log N) time to build, for N training tokens.
        Raises: RangeError when n < 1; OutOfSpace; DataError as the corpus does.
        """
        if n < 1:
            raise RangeError(f"there are no {n}-grams", where="n", valid=["1 and more"])
        path = cache_folder / "ngrams" / f"{corpus.fingerprint}-{n}.{HASH_VERSION}.u64"
        path.parent.mkdir(parents=True, exist_ok=True)
        hashes = _opened(path)
        if hashes is None:
            with FileLock(path.with_suffix(".lock")):
                hashes = _opened(path)  # another process may have built it meanwhile
                if hashes is None:
                    _build(corpus, n, path, progress if progress is not None else Silence())
                    hashes = _mapped(path)[1:]
        return cls(n, hashes)

    def __len__(self) -> int:
        """How many different n-grams there are."""
        return len(self._hashes)

    def __call__(self, ids: Sequence[int]) -> list[bool]:
        """Of every run of n ids, in order: does it occur within a training document?  Cost: O(log N) each."""
        asked = _hashed(np.asarray(ids, dtype=np.int64), self.n)
        place = np.searchsorted(self._hashes, asked)
        inside = place < len(self._hashes)
        found = np.zeros(len(asked), dtype=np.bool_)
        found[inside] = self._hashes[place[inside]] == asked[inside]
        return found.tolist()


def _hashed(tokens: npt.NDArray[np.int64], n: int) -> Hashes:
    """A hash of every n tokens in a row.

    Source of the mixing: Steele, Lea & Flood 2014, "Fast Splittable Pseudorandom Number Generators" (SplitMix64).
    """
    count = max(0, len(tokens) - n + 1)
    state = np.zeros(count, dtype=np.uint64)
    for place in range(n):
        state += tokens[place : place + count].astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state ^= state >> np.uint64(31)
    return state


def _build(corpus: Corpus, n: int, path: Path, progress: Progress) -> None:
    workshop = path.with_suffix(".building")
    shutil.rmtree(workshop, ignore_errors=True)  # of a process that was killed; the lock is ours
    workshop.mkdir()
    try:
        with _full_disk_explained(corpus, path.parent):
            runs = _write_runs(_pieces(corpus, n, progress), workshop / "runs")
            _merge(runs, workshop / "merged")
            sync_file(workshop / "merged")
            (workshop / "merged").rename(path)
            sync_folder(path.parent)
    finally:
        shutil.rmtree(workshop)


def _pieces(corpus: Corpus, n: int, progress: Progress) -> Iterator[Hashes]:
    """Hashes of the n-grams of each piece, ascending and different."""
    progress.stage(f"index {n}-grams", None)
    for source in range(len(corpus.source_names)):
        sequence = corpus.sequence(source, "train")
        end = sequence.length - 1  # without the virtual token behind the last document
        for start in range(0, end, PIECE_TOKENS):
            stop = min(end, start + PIECE_TOKENS)
            yield _ascending(_within_documents(sequence, start, min(end, stop + n - 1), n))
            progress.advance(0, stop - start)


def _within_documents(sequence: TokenSequence, start: int, stop: int, n: int) -> Hashes:
    """Hashes of the n-grams in positions `start` to `stop` that hold no beginning of a document and no picture."""
    tokens, begins = np.zeros(stop - start, dtype=np.int64), np.zeros(stop - start, dtype=np.bool_)
    sequence.read(start, tokens, begins)
    text = (tokens >= 0) & ~begins
    hashes = _hashed(tokens, n)
    whole = np.ones(len(hashes), dtype=np.bool_)
    for place in range(n):
        whole &= text[place : place + len(hashes)]
    return hashes[whole]


def _write_runs(pieces: Iterator[Hashes], path: Path) -> list[Hashes]:
    """The pieces in one file, memory-mapped again."""
    lengths = []
    with path.open("wb") as file:
        for piece in pieces:
            file.write(piece.astype(FILE_DTYPE, copy=False).data)
            lengths.append(len(piece))
    if not sum(lengths):
        return []
    return np.split(_mapped(path), np.cumsum(lengths)[:-1])


def _merge(runs: Sequence[Hashes], path: Path) -> None:
    """All hashes of the runs once, ascending, behind their number."""
    parts = max(1, len(runs))
    bounds = np.array([part * 2**64 // parts for part in range(1, parts)], dtype=np.uint64)
    cuts = [[0, *np.searchsorted(run, bounds), len(run)] for run in runs]
    count = 0
    with path.open("wb") as file:
        file.write(np.zeros(1, dtype=FILE_DTYPE).data)
        for part in range(parts):
            slices: list[npt.NDArray[Any]] = [
                run[cut[part] : cut[part + 1]] for run, cut in zip(runs, cuts, strict=True)
            ]
            merged = _ascending(np.concatenate([np.zeros(0, dtype=FILE_DTYPE), *slices]))
            file.write(merged.data)
            count += len(merged)
        file.seek(0)
        file.write(np.array([count], dtype=FILE_DTYPE).data)


def _ascending(hashes: Hashes) -> Hashes:
    """The hashes in order, each once; sorts them in place."""
    # np.unique builds a hash table first and takes fifteen times as long.
    hashes.sort()
    first = np.ones(len(hashes), dtype=np.bool_)
    np.not_equal(hashes[1:], hashes[:-1], out=first[1:])
    return hashes[first]


def _opened(path: Path) -> Hashes | None:
    """The hashes in the file; None when there is no such file, or it has not the length it states."""
    size = path.stat().st_size if path.is_file() else 0
    if size < FILE_DTYPE.itemsize or size % FILE_DTYPE.itemsize:
        return None
    content = _mapped(path)
    return content[1:] if int(content[0]) == len(content) - 1 else None


def _mapped(path: Path) -> Hashes:
    return np.asarray(np.memmap(path, dtype=FILE_DTYPE, mode="r"))


@contextmanager
def _full_disk_explained(corpus: Corpus, folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if not is_out_of_space(error):
            raise
        tokens = sum(shard.tokens for shard in corpus.manifest.shards if shard.split == "train")
        needed = 2 * FILE_DTYPE.itemsize * tokens
        elsewhere = "another cache with DREAMLM_HOME"
        raise OutOfSpace(str(folder), needed, free_bytes(folder), elsewhere, str(error.strerror)) from error
