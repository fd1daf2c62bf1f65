"""Inputs read ahead on several threads, and given away in their own order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Input = TypeVar("Input")
Result = TypeVar("Result")


def in_order(
    pool: ThreadPoolExecutor, read: Callable[[Input], Result], inputs: Iterable[Input], ahead: int
) -> Iterator[tuple[Input, Result]]:
    """Every input with what was read of it, while the pool reads up to `ahead` of those that follow."""
    waiting: deque[tuple[Input, Future[Result]]] = deque()
    for one in inputs:
        waiting.append((one, pool.submit(read, one)))
        if len(waiting) > ahead:
            done, future = waiting.popleft()
            yield done, future.result()
    while waiting:
        done, future = waiting.popleft()
        yield done, future.result()
