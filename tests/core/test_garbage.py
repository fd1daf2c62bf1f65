"""Collections in the block look at what it makes, and behind it at everything again."""

import gc
import weakref

import pytest

from dreamlm.core.garbage import only_new_garbage


class Knot:
    """Garbage that only a collection finds."""

    def __init__(self) -> None:
        self.itself = self


def test_only_what_the_block_makes_is_looked_at() -> None:
    old = Knot()
    seen_old = weakref.ref(old)
    with only_new_garbage():
        del old
        seen_new = weakref.ref(Knot())
        gc.collect()
        assert seen_new() is None
        assert seen_old() is not None
    gc.collect()
    assert seen_old() is None


def test_everything_is_looked_at_again_behind_an_error() -> None:
    with pytest.raises(KeyboardInterrupt), only_new_garbage():
        raise KeyboardInterrupt
    assert gc.get_freeze_count() == 0
