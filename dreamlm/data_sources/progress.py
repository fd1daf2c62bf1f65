"""What a long preparation tells its caller while it runs. The command line renders it; the library never prints."""

from typing import Protocol


class Progress(Protocol):
    """Receives the course of a preparation; rates and the time left follow from the numbers and a clock."""

    def stage(self, name: str, total_bytes: int | None) -> None:
        """A stage begins; `total_bytes` of text lie ahead, or None when nobody can know."""
        ...

    def advance(self, text_bytes: int, tokens: int = 0) -> None:
        """This many more bytes of text were handled in the stage, and this many tokens made from them."""
        ...

    def notice(self, message: str) -> None:
        """One plain sentence that the user should see, such as a source that failed or the backend that was chosen."""
        ...


class Silence:
    """Listens to nothing."""

    def stage(self, name: str, total_bytes: int | None) -> None:
        """Do nothing."""

    def advance(self, text_bytes: int, tokens: int = 0) -> None:
        """Do nothing."""

    def notice(self, message: str) -> None:
        """Do nothing."""
