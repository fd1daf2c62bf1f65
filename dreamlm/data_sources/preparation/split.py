"""Which documents are held out: decided by a hash, so the same document always falls on the same side.

The hash is that of the text, or of the picture: all that is said of one picture stands on one side.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dreamlm.data_sources.manifest import Split
from dreamlm.data_sources.preparation.spool import Entries, Spool

HASH_RANGE = 2**64
SMALLEST_SHARE = 10  # at most every tenth document of a source, but one at least, is held out to reach the minimum
PIXELS_PER_TEXT_BYTE = 8  # pixels weigh less: unlike text they are only copied


@dataclass(frozen=True)
class SplitSpool:
    """A spool and the hash below which its documents are held out."""

    spool: Spool
    threshold: int

    def chosen(self, entries: Entries, split: Split) -> npt.NDArray[np.bool_]:
        """Which of the entries belong to the split."""
        held_out: npt.NDArray[np.bool_] = entries["hash"] < np.uint64(self.threshold)
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


def split_spool(spool: Spool, fraction: float, at_least: int) -> SplitSpool:
    """Hold out `fraction` of the documents, and in a small source `at_least` so many (but at most a tenth, or one).

    A fraction of 0 holds out nothing. Documents with one hash stay together, so that there may be some more; those with
    the highest hash are never held out, so that something is left to train on.
    """
    threshold = int(fraction * HASH_RANGE)
    wanted = min(at_least, max(1, spool.documents // SMALLEST_SHARE))
    if fraction > 0 and wanted > 0:
        threshold = max(threshold, spool.lowest_hashes[wanted - 1] + 1)
    return SplitSpool(spool, min(threshold, spool.highest_hash))


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
