"""A shuffle without a list: a bijection of 0..length-1 that is computed, never stored, so resuming needs no state.

A Feistel network permutes the smallest domain of 4^k numbers that holds the range; a result outside the range is
permuted again until it falls inside (cycle walking, fewer than four rounds on average).
"""

from math import ceil

import numpy as np
import numpy.typing as npt

from dreamlm.core.errors import RangeError
from dreamlm.core.rng import derive_seed

ROUNDS = 6


def shuffled(positions: npt.ArrayLike, length: int, key: int) -> npt.NDArray[np.int64]:
    """Where each position (0 <= position < length) goes; every key gives another permutation of the range.

    Raises: RangeError for a position outside the range.
    Source: Black & Rogaway 2002, "Ciphers with arbitrary finite domains".
    """
    values = np.atleast_1d(np.asarray(positions, dtype=np.int64))
    if length < 1 or (values.size and (values.min() < 0 or values.max() >= length)):
        raise RangeError(f"positions must lie in 0..{length - 1}")
    half_bits = max(1, ceil((length - 1).bit_length() / 2))
    round_keys = [np.uint64(derive_seed(key, "order round", number)) for number in range(ROUNDS)]
    result = _feistel(values.astype(np.uint64), half_bits, round_keys)
    while (outside := result >= length).any():
        result[outside] = _feistel(result[outside], half_bits, round_keys)
    return result.astype(np.int64)


def _feistel(values: npt.NDArray[np.uint64], half_bits: int, round_keys: list[np.uint64]) -> npt.NDArray[np.uint64]:
    bits, mask = np.uint64(half_bits), np.uint64((1 << half_bits) - 1)
    left, right = values >> bits, values & mask
    for round_key in round_keys:
        left, right = right, left ^ (_scramble(right + round_key) & mask)
    return (left << bits) | right


def _scramble(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finaliser of splitmix64 (Steele et al. 2014); multiplication wraps around at 2^64."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
