"""SIGINT, SIGTERM and SIGHUP: the first asks the loop to finish its step, save and stop; the second stops at once.

A terminal that closes may say SIGHUP twice, and nobody is there who means anything by it: it is never the second.
"""

import signal
from collections.abc import Callable
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any, Self, final

from dreamlm.core.errors import Interrupted


def ending_signals() -> tuple[signal.Signals, ...]:
    """Those that end us; SIGHUP is none of them where `nohup` made us ignore it."""
    hang_up = () if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else (signal.SIGHUP,)
    return (signal.SIGINT, signal.SIGTERM, *hang_up)


@final
class StopRequest:
    """A context in which signals are noted instead of obeyed; `number` is the first one, 0 while there was none."""

    def __init__(self, on_first: Callable[[str], None]) -> None:
        self.number = 0
        self._on_first = on_first
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._note) for number in ending_signals()}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def ended(self, where: str) -> Interrupted:
        """What a loop raises once it has saved; SIGTERM where another process was asked to stop and not this one."""
        return Interrupted(self.number or signal.SIGTERM, f"stopped at {where}; a snapshot was saved")

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number:
            if number == signal.SIGHUP:
                return
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)
        self.number = number
        name = signal.Signals(number).name
        with suppress(RuntimeError):  # of a stream that is in the middle of a line
            self._on_first(f"{name}: finishing this step, then saving; again to stop without saving")
