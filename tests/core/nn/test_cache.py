"""Caches are values: whatever is appended to whichever of them, every other one stays as it is."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dreamlm.core.nn.cache import KeyValueCache

ROWS, HEADS, WIDTH = 2, 1, 3
STEPS = st.lists(st.tuples(st.booleans(), st.integers(0, 20), st.integers(1, 8)), min_size=4, max_size=16)
"""Whether a step only looks, which of the caches so far it appends to, and how many tokens."""


def held(cache: KeyValueCache) -> tuple[Tensor, Tensor]:
    return cache.key.clone(), cache.value.clone()


@pytest.mark.parametrize("with_gradient", [False, True])
@given(steps=STEPS)
@settings(max_examples=60)
def test_every_cache_holds_what_it_was_made_of(with_gradient: bool, steps: list[tuple[bool, int, int]]) -> None:
    caches = [KeyValueCache.empty(ROWS, HEADS, WIDTH, torch.device("cpu"))]
    expected = [held(caches[0])]
    dice = torch.Generator().manual_seed(0)
    with torch.set_grad_enabled(with_gradient):
        for looks, chosen, tokens in steps:
            number = chosen % len(caches)
            key, value = (
                torch.randn(ROWS, HEADS, tokens, WIDTH, generator=dice, requires_grad=with_gradient) for _ in range(2)
            )
            past = caches[number].glimpse() if looks else caches[number]
            longer = past.append(key, value)
            naive = tuple(torch.cat(pair, 2) for pair in zip(expected[number], (key, value), strict=True))
            assert all(map(torch.equal, held(longer), naive))
            if not looks:
                caches.append(longer)
                expected.append(naive)
            for cache, content in zip(caches, expected, strict=True):
                assert all(map(torch.equal, held(cache), content))
        if with_gradient:
            torch.stack([cache.key.square().sum() for cache in caches]).sum().backward()


def test_tokens_one_by_one_are_written_where_the_others_lie() -> None:
    cache = KeyValueCache.of(*torch.randn(2, ROWS, HEADS, 5, WIDTH))
    with torch.no_grad():
        places = set()
        for _ in range(60):
            cache = cache.append(*torch.randn(2, ROWS, HEADS, 1, WIDTH))
            places.add(cache.key.data_ptr())
            seen = cache.glimpse().append(*torch.randn(2, ROWS, HEADS, 1, WIDTH))
            if cache.length < cache.buffer.key.shape[2]:
                assert seen.key.data_ptr() == cache.key.data_ptr(), "looking on copies nothing"
    assert len(places) <= 3
