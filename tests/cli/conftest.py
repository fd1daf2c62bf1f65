"""Runs the command line inside the test process, as `main` would, and hands back what a shell would see."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from dreamlm.cli.app import run


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


Cli = Callable[..., Outcome]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    def call(*arguments: str) -> Outcome:
        code = run(arguments)
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call
