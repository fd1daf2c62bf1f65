"""The text a tokenizer is trained on: an even sample of the training documents, chosen by their hashes."""

from collections.abc import Iterator, Sequence

import numpy as np

from dreamlm.data_sources.preparation.split import HASH_RANGE, SplitSpool

BATCH_BYTES = 1 << 18
MIXER = np.uint64(0x9E3779B97F4A7C15)  # makes the choice independent of the split, which uses the hash itself
LARGEST_EXCESS = 1.25


def training_sample(sources: Sequence[SplitSpool], sample_bytes: int) -> Iterator[str]:
    """Training documents of about `sample_bytes` of UTF-8 text together, a quarter more at most plus one document.

    Every document has the same chance, so each source is there in proportion to its size.
    """
    total = sum(source.spool.text_bytes for source in sources)
    limit = np.uint64(min(HASH_RANGE - 1, HASH_RANGE * sample_bytes // max(1, total)))
    taken = 0
    for source in sources:
        for _, entries in source.spool.entries():
            wanted = source.chosen(entries, "train")
            if total > sample_bytes:
                wanted &= entries["hash"] * MIXER < limit
            for _, texts in source.spool.texts(entries[wanted], BATCH_BYTES):
                for text in texts:
                    yield text.decode()
                    taken += len(text)
                    if taken > sample_bytes * LARGEST_EXCESS:
                        return
