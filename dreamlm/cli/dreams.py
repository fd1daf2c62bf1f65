"""What `dreamlm generate` does with dreams: show them as they come, and write them down at the end."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, final

from dreamlm.cli.console import Console
from dreamlm.cli.dream_panel import SHOWN_OF_STEPS, panels
from dreamlm.core.errors import UserMistake

if TYPE_CHECKING:
    from dreamlm.core.generation.dreams.values import DreamRecord, DreamtSegment
    from dreamlm.core.generation.segments import OnSegments
    from dreamlm.wiring.loading import Loaded

NEIGHBOURS = 5
"""Nearest tokens of each role, unless another number is asked for."""


@final
class DreamLog:
    """The dreams of one call of the command. Mutable: it grows with the texts."""

    def __init__(self, console: Console, show: bool, out: Path | None, neighbours: int | None) -> None:
        """out: the file to write.  neighbours: nearest tokens of each role.

        Raises: UserMistake when the file cannot be written, or an option has nothing to be for.
        """
        from dreamlm.core.generation.dreams.files import DreamFile

        if neighbours is not None and not show and out is None:
            raise UserMistake(
                "--dream-neighbours is for dreams that are shown or written",
                hint="add --show-dreams, or --dreams-out FILE",
            )
        self._console, self._show = console, show
        self._files = [] if out is None else [DreamFile.at(out)]
        self._count = neighbours or NEIGHBOURS
        self._prompts: list[str] = []
        self._texts: list[str] = []
        self._segments: dict[int, list[DreamtSegment]] = {}
        self._dreamt = 0

    @property
    def take_the_screen(self) -> bool:
        """Whether panels come in between what else is shown."""
        return self._show and self._console.talks_to_a_person

    @contextmanager
    def watching(self, loaded: "Loaded") -> Iterator["OnSegments"]:
        """What is to be told of segments while the block writes; at its end the file is written.

        Raises: UserMistake when the model does not dream.
        """
        from dreamlm.core.generation.dreams.collector import DreamCollector
        from dreamlm.core.generation.segments import ignore_segments

        if not self._show and not self._files:
            yield ignore_segments
            return
        step_count = self._count if self._files else SHOWN_OF_STEPS
        collector = DreamCollector(loaded.model, loaded.tokenizer, self._count, self._add, step_count)
        segment_length = loaded.model.config.segment
        try:
            yield collector
        except (KeyboardInterrupt, SystemExit, BrokenPipeError):
            self._write(segment_length, interrupted=True)
            raise
        self._write(segment_length, interrupted=False)

    def begin(self, prompts: list[str]) -> None:
        """These prompts are the next to be written."""
        self._prompts += prompts

    def end(self, text: str) -> None:
        """What was written behind the first prompt of those that have not ended."""
        self._texts.append(text)

    def _add(self, segment: "DreamtSegment") -> None:
        self._dreamt += 1
        if self._files:
            self._segments.setdefault(segment.passage.prompt, []).append(segment)
        if self._show:
            for title, rows in panels(segment.passage.prompt, segment):
                self._console.panel(title, rows)

    def _write(self, segment_length: int, interrupted: bool) -> None:
        if self._dreamt == 0:
            self._console.notice(f"nothing was dreamt: no segment of {segment_length} tokens was read to its end")
        for file in self._files:
            file.write(self._record(segment_length, interrupted))
            if interrupted:
                self._console.notice(f"interrupted: {file.path} has what was dreamt until now")

    def _record(self, segment_length: int, interrupted: bool) -> "DreamRecord":
        from dreamlm.core.generation.dreams.neighbours import DEFINITION
        from dreamlm.core.generation.dreams.values import DreamRecord, DreamtText

        texts = (
            DreamtText(prompt, text, tuple(self._segments.get(number, ())))
            for number, (prompt, text) in enumerate(zip_longest(self._prompts, self._texts))
        )
        return DreamRecord(tuple(texts), segment_length, DEFINITION, interrupted)
