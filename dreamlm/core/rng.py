"""Randomness as a pure function: a stream of numbers is named by its seed and purpose, never by what ran before.

Because a generator is derived from (seed, names...) at the moment it is used, a resumed run needs no saved
generator state: step 1000 draws the same numbers whether or not the process was restarted at step 999.
"""

import hashlib


def derive_seed(seed: int, *names: str | int) -> int:
    """A 63-bit seed that depends on the seed and on every name in order; equal inputs give equal seeds anywhere."""
    text = "\x1f".join([str(seed), *(f"{type(name).__name__}:{name}" for name in names)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
