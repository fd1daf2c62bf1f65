"""Python's collector of cyclic garbage, kept from what stays."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def only_new_garbage() -> Iterator[None]:
    """In the block, collections look only at objects that the block makes.

    Libraries and a model are a quarter of a million objects, which a full collection takes a tenth of a second to walk
    through (benchmarks/results/dream_viewing.md), and whoever makes many small objects sets off one after the other.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
