"""Which next tokens would repeat an n-gram, kept up to date token by token."""

from collections import deque
from collections.abc import Iterable, Sequence, Set


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


class NgramHoles:
    """The same for a text whose coming tokens are found in any order.

    Cost: O(n^2) a question; memory is n times linear in the text.
    """

    def __init__(self, size: int, history: Sequence[int], holes: int) -> None:
        """size: n, at least 1.  holes: how many tokens come behind the history."""
        self._size, self._first = size, len(history)
        self._text: list[int | None] = [*history, *[None] * holes]
        self._fillers: dict[tuple[int, tuple[int, ...]], set[int]] = {}
        """For each place in an n-gram, and the tokens around it, what the text has there."""
        for begin in range(len(history) - size + 1):
            self._remember(tuple(history[begin : begin + size]))

    def blocked(self, hole: int) -> Set[int]:
        """The tokens that would complete an n-gram there which is in the text already."""
        around = self._around(hole)
        return set().union(*(self._fillers.get(one, frozenset()) for one in around))

    def repeats(self, hole: int, token: int) -> bool:
        """Whether the token there would complete such an n-gram, or one twice at once."""
        grams = [_completed(one, token) for one in self._around(hole)]
        return len(set(grams)) < len(grams) or token in self.blocked(hole)

    def put(self, hole: int, token: int) -> None:
        """Fill a hole."""
        for one in self._around(hole):
            self._remember(_completed(one, token))
        self._text[self._first + hole] = token

    def _around(self, hole: int) -> list[tuple[int, tuple[int, ...]]]:
        """The n-grams that lack just this token: its place in each, and the others."""
        place, found = self._first + hole, []
        for begin in range(max(0, place - self._size + 1), min(place, len(self._text) - self._size) + 1):
            others = [*self._text[begin:place], *self._text[place + 1 : begin + self._size]]
            known = tuple(one for one in others if one is not None)
            if len(known) == self._size - 1:
                found.append((place - begin, known))
        return found

    def _remember(self, gram: tuple[int, ...]) -> None:
        for place, token in enumerate(gram):
            self._fillers.setdefault((place, (*gram[:place], *gram[place + 1 :])), set()).add(token)


def _completed(around: tuple[int, tuple[int, ...]], token: int) -> tuple[int, ...]:
    place, others = around
    return (*others[:place], token, *others[place:])
