"""A stream that says it is a terminal."""

import io


class Terminal(io.StringIO):
    """What was written, as one text and piece by piece."""

    def __init__(self, text: str = "") -> None:
        super().__init__(text)
        self.pieces: list[str] = []

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.pieces.append(text)
        return super().write(text)
