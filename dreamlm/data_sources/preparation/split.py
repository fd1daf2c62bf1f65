"""Which documents are held out: decided by a hash for the whole corpus, so the same document is on one side of it.

The hash is that of the text, or of the picture: all that is said of one picture stands on one side, in all sources.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dreamlm.data_sources.manifest import Split
from dreamlm.data_sources.preparation.spool import Entries, Spool

HASH_RANGE = 2**64
SMALLEST_SHARE = 10  # at most every tenth document of a source, but one at least, is held out to reach the minimum
PIXELS_PER_TEXT_BYTE = 8  # pixels weigh less: unlike text they are only copied


@dataclass(frozen=True)
class HeldOutHashes:
    """Which hashes are held out, whatever source a document comes from."""

    below: int
    """All below this."""
    also: tuple[int, ...]
    """The lowest of small sources."""
    never: tuple[int, ...]
    """The highest of each source, so that something of it is left to train on."""

    def among(self, hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        """Which of the hashes are held out."""
        also, never = np.array(self.also, np.uint64), np.array(self.never, np.uint64)
        return ((hashes < np.uint64(self.below)) | np.isin(hashes, also)) & ~np.isin(hashes, never)


@dataclass(frozen=True)
class SplitSpool:
    """A spool and what of its documents is held out."""

    spool: Spool
    held_out: HeldOutHashes

    def chosen(self, entries: Entries, split: Split) -> npt.NDArray[np.bool_]:
        """Which of the entries belong to the split."""
        held_out = self.held_out.among(entries["hash"])
        return held_out if split == "validation" else ~held_out


@dataclass(frozen=True)
class ShardPlan:
    """One shard to be made: the documents of `split` among the entries `first` to `stop` of a spool."""

    source: SplitSpool
    split: Split
    number: int
    first: int
    stop: int

    @property
    def path(self) -> str:
        """Of the shard file, relative to the corpus folder."""
        return f"{self.split}/{self.source.spool.source}-{self.number:05}.safetensors"


def held_out_of(spools: Sequence[Spool], fraction: float, at_least: int) -> HeldOutHashes:
    """Hold out `fraction` of the documents, and in a small source `at_least` so many (but at most a tenth, or one).

    A fraction of 0 holds out nothing. Documents with one hash stay together, so that there may be some more, also in
    other sources; those with the highest hash of a source are never held out.
    """
    if fraction == 0:
        return HeldOutHashes(0, (), ())
    never = {spool.highest_hash for spool in spools}
    also: set[int] = set()
    for spool in spools:
        wanted = min(at_least, max(1, spool.documents // SMALLEST_SHARE))
        also.update([number for number in spool.lowest_hashes if number not in never][:wanted])
    return HeldOutHashes(min(int(fraction * HASH_RANGE), HASH_RANGE - 1), tuple(sorted(also)), tuple(sorted(never)))


def spares_one(spool: Spool, fraction: float) -> bool:
    """Whether all documents would be held out by the fraction, if the one with the highest hash were not spared."""
    return int(fraction * HASH_RANGE) > spool.highest_hash


def plan_shards(source: SplitSpool, split: Split, shard_text_bytes: int) -> Iterator[ShardPlan]:
    """Divide the documents of a split into shards of about `shard_text_bytes` of text, whatever reads them later.

    `PIXELS_PER_TEXT_BYTE` bytes of pixels count as one of text.  Cost: one pass over the index, a block at a time.
    """
    number, first, size, current = 0, -1, 0, -1
    picture_size = source.spool.pixel_bytes // PIXELS_PER_TEXT_BYTE
    for start, entries in source.spool.entries():
        places = np.flatnonzero(source.chosen(entries, split))
        sizes = entries["bytes"][places] + picture_size
        before = size + np.cumsum(sizes) - sizes
        groups = before // shard_text_bytes
        for place in np.flatnonzero(np.diff(groups, prepend=current)):
            position = start + int(places[place])
            if first >= 0:
                yield ShardPlan(source, split, number, first, position)
                number += 1
            first = position
        if len(groups):
            current, size = int(groups[-1]), int(before[-1] + sizes[-1])
    if first >= 0:
        yield ShardPlan(source, split, number, first, source.spool.documents)
