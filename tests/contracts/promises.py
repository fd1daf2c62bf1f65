"""What a contract is: a numbered, named function that raises an AssertionError which says so."""

from collections.abc import Callable
from dataclasses import dataclass

from contract_subject import Subject

Check = Callable[[Subject, bool], None]


@dataclass(frozen=True)
class Contract:
    """Call it with a subject and whether the model is in train mode."""

    number: int
    name: str
    check: Check

    def __call__(self, subject: Subject, training: bool) -> None:
        try:
            self.check(subject, training)
        except AssertionError as error:
            raise AssertionError(f"{self} is broken: {error}") from error

    def __str__(self) -> str:
        return f"contract {self.number} ({self.name})"


def promise(number: int, name: str) -> Callable[[Check], Contract]:
    return lambda check: Contract(number, name, check)
