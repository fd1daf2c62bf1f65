"""Trying again after a network failure: which failures are worth it, how often, and how long to wait in between."""

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

TRANSPORT_PACKAGES = frozenset({"aiohttp", "httpcore", "httpx", "httpx2", "requests", "urllib3"})
NAME_RESOLUTION = ("name or service not known", "name resolution", "nodename nor servname", "getaddrinfo failed")


@dataclass(frozen=True)
class RetryPolicy:
    """Exponential backoff with jitter. The clock and the dice are parts, so that tests need no time and no luck."""

    attempts: int = 6
    """Tries in a row without progress before giving up; with the defaults the waits add up to 31 s at most."""
    attempts_without_network: int = 3
    """The same when the host's name cannot be resolved: 3 s at most, for there is probably no network at all."""
    first_delay_seconds: float = 1.0
    longest_delay_seconds: float = 30.0
    sleep: Callable[[float], None] = time.sleep
    draw: Callable[[], float] = random.random
    """A number in [0, 1)."""

    def delay_seconds(self, failures: int) -> float:
        """How long to wait after this many failures in a row: between half of the doubled delay and all of it."""
        longest = min(self.longest_delay_seconds, self.first_delay_seconds * 2.0 ** (failures - 1))
        return longest * (0.5 + 0.5 * self.draw())

    def allows(self, failures: int, error: BaseException) -> bool:
        """Whether another try is worth it after this many failures in a row, the last one being `error`."""
        if not is_network_failure(error):
            return False
        return failures < (self.attempts_without_network if is_name_resolution_failure(error) else self.attempts)

    def call(self, action: Callable[[], T], what: str, on_notice: Callable[[str], None]) -> T:
        """The action's result; after a network failure it is tried again.

        Raises: the last error when no more tries are allowed, any other error at once.
        """
        failures = 0
        while True:
            try:
                return action()
            except Exception as error:
                failures += 1
                if not self.allows(failures, error):
                    raise
                self.wait(failures, error, what, on_notice)

    def wait(self, failures: int, error: BaseException, what: str, on_notice: Callable[[str], None]) -> None:
        """Say that there was a failure, then sleep for the delay that is due."""
        seconds = self.delay_seconds(failures)
        on_notice(f"{what}: {reason_of(error)}; try {failures + 1} follows in {seconds:.1f} s")
        self.sleep(seconds)


def is_network_failure(error: BaseException) -> bool:
    """Whether the error, or one that caused it, comes from the network or an overloaded server."""
    for cause in _chain(error):
        status = getattr(getattr(cause, "response", None), "status_code", None) or getattr(cause, "status", None)
        if isinstance(status, int):
            return status in (408, 425, 429) or status >= 500
        if isinstance(cause, ConnectionError | TimeoutError):
            return True
        if isinstance(cause, OSError) and is_name_resolution_failure(cause):
            return True
        if type(cause).__module__.split(".")[0] in TRANSPORT_PACKAGES:
            return True
    return False


def is_name_resolution_failure(error: BaseException) -> bool:
    """Whether the error, or one that caused it, says that a host's name is unknown: mostly there is no network."""
    return any(mark in str(cause).lower() for cause in _chain(error) for mark in NAME_RESOLUTION)


def reason_of(error: BaseException) -> str:
    """One line about an error: its first line of text, or the name of its class."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what it was raised from."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__
