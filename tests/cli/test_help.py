"""Help answers at once: nothing heavy is imported, and every command has it."""

import json
import re
import subprocess
import sys

import pytest

from dreamlm.cli.app import app
from dreamlm.presets.resolve import resolve

# pydantic is not in this list: typer itself converts values with it.
HEAVY = {"torch", "transformers", "datasets", "deepspeed", "numpy", "rich", "tokenizers", "safetensors"}
PROBE = """
import contextlib, io, json, resource, sys
from dreamlm.cli.app import run
codes, texts = [], []
for line in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        codes.append(run(line))
    texts.append(out.getvalue())
print(json.dumps([codes, texts, sorted({name.partition(".")[0] for name in sys.modules})]))
"""


def command_lines() -> list[list[str]]:
    names = [command.name or command.callback.__name__ for command in app.registered_commands]
    lines = [[name] for name in names]
    for group in app.registered_groups:
        inside = group.typer_instance.registered_commands
        lines += [[group.name], *[[group.name, inner.name or inner.callback.__name__] for inner in inside]]
    return [[], *lines]


@pytest.fixture(scope="module")
def answers() -> tuple[list[int], list[str], list[str]]:
    lines = [[*line, "--help"] for line in command_lines()]
    done = subprocess.run([sys.executable, "-c", PROBE, json.dumps(lines)], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return tuple(json.loads(done.stdout))


def test_every_command_explains_itself(answers: tuple[list[int], list[str], list[str]]) -> None:
    codes, texts, _ = answers
    assert set(codes) == {0}
    for line, text in zip(command_lines(), texts, strict=True):
        assert text.startswith(f"Usage: {' '.join(['dreamlm', *line])} ")
        assert "\n\n  " in text, f"{line} has no description"


def test_every_help_shows_an_assignment_to_a_key_that_the_command_reads(
    answers: tuple[list[int], list[str], list[str]],
) -> None:
    lines = [" ".join(line) for line in command_lines()]
    shown = {
        line: found[1]
        for line, text in zip(lines, answers[1], strict=True)
        if (found := re.search(r"Change one key, as in (\S+);", " ".join(text.split())))
    }
    sections = {"eval": "eval.", "generate": "generate.", "prepare": "data.", "rl ppo": "rl.ppo.", "train": "train."}
    assert sections.items() <= {line: one[: len(sections.get(line, one))] for line, one in shown.items()}.items()
    assert shown.keys() - sections.keys() == {"rl reward", "presets diff", "presets show", "presets validate"}
    for one in shown.values():
        assert resolve("tiny", [one]) != resolve("tiny")


def test_help_imports_nothing_heavy(answers: tuple[list[int], list[str], list[str]]) -> None:
    assert HEAVY & set(answers[2]) == set()


def test_listing_presets_imports_neither_torch_nor_the_schema() -> None:
    probe = (
        "import sys; from dreamlm.cli.app import run; code = run(['presets', 'list']);"
        "heavy = {'torch', 'datasets', 'dreamlm.presets.schema'} & set(sys.modules); sys.exit(code or bool(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "best_general (default)" in done.stdout
