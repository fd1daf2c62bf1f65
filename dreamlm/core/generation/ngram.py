"""Which next tokens would repeat an n-gram, kept up to date token by token."""

from collections import deque
from collections.abc import Iterable, Set


class NgramBlock:
    """The tokens that must not come next, because the n-gram they would complete has already occurred.

    Cost: O(n) a token, whatever the length of the history; memory is linear in it.
    """

    def __init__(self, size: int, history: Iterable[int] = ()) -> None:
        """`size` is n, at least 1; with 1 no token of the history may come again."""
        self._followers: dict[tuple[int, ...], set[int]] = {}
        self._recent: deque[int] = deque(maxlen=size - 1)
        for token in history:
            self.push(token)

    def push(self, token: int) -> None:
        """Add one token to the history."""
        if len(self._recent) == self._recent.maxlen:
            self._followers.setdefault(tuple(self._recent), set()).add(token)
        self._recent.append(token)

    def blocked(self) -> Set[int]:
        """The tokens that may not come next."""
        return self._followers.get(tuple(self._recent), frozenset())
