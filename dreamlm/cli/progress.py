"""How a preparation tells the terminal how far it is: `data_sources.progress.Progress`, drawn on a live line."""

import time
from collections.abc import Callable
from typing import final

from dreamlm.cli.console import Console
from dreamlm.cli.live_line import LiveLine, count, duration


@final
class PreparationProgress:
    """Stage, share done, MB/s, tokens/s and the time left."""

    def __init__(self, console: Console, line: LiveLine, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._line, self._clock = console, line, clock
        self._stage, self._began = "", clock()
        self._total: int | None = None
        self._bytes = self._tokens = 0

    def stage(self, name: str, total_bytes: int | None) -> None:
        """A stage begins; its rates start afresh."""
        self._stage, self._total, self._began = name, total_bytes, self._clock()
        self._bytes = self._tokens = 0
        self._show()

    def advance(self, text_bytes: int, tokens: int = 0) -> None:
        """This many more bytes of text, and this many tokens made from them."""
        self._bytes += text_bytes
        self._tokens += tokens
        self._show()

    def notice(self, message: str) -> None:
        """A message that stays above the live line."""
        self._console.notice(message)

    def _show(self) -> None:
        seconds = self._clock() - self._began
        parts = [self._stage]
        share = min(1.0, self._bytes / self._total) if self._total else None
        if share is not None:
            parts.append(f"{share:.0%}")
        if self._bytes:
            parts.append(f"{count(self._bytes)}B")
        if seconds > 0 and self._bytes:
            parts.append(f"{self._bytes / seconds / 1e6:.1f} MB/s")
            if self._tokens:
                parts.append(f"{count(self._tokens / seconds)} tokens/s")
            if share:
                parts.append(f"{duration(seconds * (1 - share) / share)} left")
        self._line.show("  ".join(parts), share)
