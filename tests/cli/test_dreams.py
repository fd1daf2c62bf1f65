"""Dreams on the command line: panels on stderr, a file at the end, and the same text with or without them."""

import gc
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console as RichConsole
from terminal import Terminal

from dreamlm.cli.app import run as run_command
from dreamlm.cli.console import Console
from dreamlm.cli.dream_panel import panels
from dreamlm.cli.frame import _columns as columns_of
from dreamlm.cli.frame import framed
from dreamlm.core.generation.dreams.values import Dream, DreamGraph, DreamtSegment, Edge, Neighbour, Node, Triplet
from dreamlm.core.generation.segments import Passage

DREAMING = {
    "type": "dreaming", "num_dream_sequences": 2, "dream_length": 2, "num_experts": 3, "expert_num_layers": 1,
    "expert_num_heads": 2, "graph_num_heads": 2, "graph_reasoning_hops": 1,
}  # fmt: skip
PRESET = {
    "name": "dreamer",
    "model": {
        "hidden_size": 16, "num_layers": 1, "num_heads": 2, "seq_length": 16, "segment_length": 4,
        "modules": [DREAMING],
    },
    "tokenizer": {"type": "bpe", "vocab_size": 300},
    "data": {"sources": [{"type": "jsonl", "paths": "fables.jsonl"}], "validation_fraction": 0.1, "min_text_length": 1},
    "train": {"train_tokens": 500, "per_gpu_batch_size": 8, "eval_tokens": 100, "precision": "fp32"},
    "generate": {"max_new_tokens": 10, "min_new_tokens": 10},
}  # fmt: skip
ASKED = ("generate", "--run", "runs/dreamer", "The fox met", "A dog")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the run of a model that dreams."""
    folder = tmp_path_factory.mktemp("dreamer")
    animals = ("fox", "crow", "lion", "mouse", "hare", "wolf", "dog", "ox")
    fables = [f"The {one} met a {other}. It said: good day, {other}!" for one in animals for other in animals]
    (folder / "fables.jsonl").write_text("\n".join(json.dumps({"text": fable}) for fable in fables))
    (folder / "dreamer.json").write_text(json.dumps(PRESET))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("DREAMLM_HOME", str(folder / "home"))
        assert run_command(["train", "--preset", "dreamer.json"]) == 0
        yield folder


def segment() -> DreamtSegment:
    def near(*words: str) -> tuple[Neighbour, ...]:
        return tuple(Neighbour(1, word, 0.5) for word in words)

    steps = (Triplet(near(" sea", "x"), near("calm"), near("\n")), Triplet(near("a"), near("b"), near("c")))
    edges = tuple(Edge(Node(0, step), Node(1, step), (0.3, strength)) for step, strength in enumerate((0.7, 0.9)))
    dreams = (Dream((0.31, 0.0, 0.69), steps), Dream((0.0, 1.0, 0.0), steps[::-1]))
    passage = Passage(1, 0, 2, 16, (1,) * 8, 3)
    return DreamtSegment(passage, " the\nsea \x1b[2J", {"dreaming": DreamGraph(steps[0], dreams, edges)})


def test_a_panel_says_who_dreamt_what(capsys: pytest.CaptureFixture[str]) -> None:
    [(title, rows)] = panels(1, segment())
    Console(as_json=True).panel(title, rows)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert [line.rstrip() for line in shown.err.splitlines()] == [
        "text 2, segment 3, tokens 16 to 23 (prompt, then written), dreaming",
        "  text     “the sea \\x1b[2J”",
        "  what     sea x",
        "  action   calm",
        "  result   \\n",
        "  dream 1  expert 3 ███████ 0.69  expert 1 ███ 0.31",
        "           1 sea → calm → \\n  2 a → b → c",
        "  dream 2  expert 2 ██████████ 1.00",
        "           1 a → b → c  2 sea → calm → \\n",
        "  edges    1.2 → 2.2 spatial 0.90  1.1 → 2.1 spatial 0.70",
    ]


def test_a_terminal_gets_a_frame_that_words_cannot_style(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    Console().panel("what [red]it[/red] is", [("text", [("[bold]one[/bold] ", "italic"), ("word " * 16, "")])])
    lines = screen.getvalue().splitlines()
    assert lines[0].startswith("╭─ what [red]it[/red] is ─")
    assert lines[1].startswith("│ text [bold]one[/bold] word")
    assert lines[2].startswith("│      word"), "what is too long stands below its own beginning"
    assert {len(line) for line in lines} == {80}


@pytest.mark.parametrize("columns", [4, 24, 60])
def test_a_frame_is_straight_on_any_terminal(columns: int) -> None:
    console = RichConsole(file=io.StringIO(), width=columns)
    rows = [("front", [("海は静か " * 9, "italic"), ("a-word-that-is-longer-than-any-line", "")]), ("", [("e", "dim")])]
    lines = "".join(piece.text for piece in framed(console, "a title 静か " * 4, rows)).splitlines()
    assert len({cell_len(line) for line in lines}) == 1
    assert cell_len(lines[0]) == max(columns, 18)
    assert "".join(line[8:-2] for line in lines[1:-2]).replace(" ", "") == "".join(
        text for text, _ in rows[0][1]
    ).replace(" ", "")


def test_a_line_goes_on_with_the_next_piece_and_breaks_between_its_words() -> None:
    console = RichConsole(file=io.StringIO(), width=20)
    pieces = [("one two ", "dim"), ("three four", ""), (" five", "dim")]
    lines = "".join(piece.text for piece in framed(console, "t", [("", pieces)])).splitlines()
    assert [line[2:-2].strip() for line in lines[1:-1]] == ["one two three", "four five"]
    [one, two] = [piece for piece in framed(console, "t", [("", pieces[:2])]) if piece.text in ("one two ", "three ")]
    assert (one.text, two.text, one.style == two.style) == ("one two ", "three ", False)


@settings(max_examples=300)
@given(st.text(st.characters(codec="utf-8") | st.sampled_from("→a \t静")))
def test_columns_are_those_of_the_terminal(text: str) -> None:
    assert columns_of(text) == cell_len(text)


def test_dreams_are_shown_on_stderr_and_the_texts_stay_the_same(cli: Any, place: Path) -> None:
    plain, shown = cli(*ASKED, "--json"), cli(*ASKED, "--json", "--show-dreams")
    assert (plain.code, plain.err) == (0, "")
    assert (shown.code, shown.out) == (0, plain.out)
    headings = [line for line in shown.err.splitlines() if line.startswith("text ")]
    assert headings[0].startswith("text 1, segment 1, tokens 0 to 3 (prompt")
    assert all(line.endswith(", dreaming") for line in headings)
    assert any(line.startswith("text 2, ") for line in headings)
    again = cli(*ASKED, "--show-dreams", "--batch-size", "1")
    assert again.out == cli(*ASKED).out
    assert sorted(line for line in again.err.splitlines() if line.startswith("text ")) == sorted(headings)


def test_blocks_and_dreams_can_be_watched_together(cli: Any, place: Path) -> None:
    train = ("train", "--preset", "dreamer.json", "--run", "runs/blocks", "--set", "model.diffusion=block_diffusion")
    assert cli(*train).code == 0
    asked = ("generate", "--run", "runs/blocks", "The fox met", "A dog", "--json")
    options: tuple[tuple[str, ...], ...] = ((), ("--show-dreams",), ("--show-dreams", "--show-denoising"))
    plain, dreams, both = (cli(*asked, *shown) for shown in options)
    assert (both.code, both.out) == (0, plain.out)
    lines = both.err.splitlines()
    steps = [line for line in lines if re.match(r"text [12]  block \d+  step \d/4  ", line)]
    assert len(steps) > 10
    assert [line for line in lines if line not in steps] == dreams.err.splitlines() != []


def test_the_file_has_every_text_and_segment(cli: Any, place: Path) -> None:
    outcome = cli(*ASKED, "--json", "--dreams-out", "dreams.json", "--dream-neighbours", "2", "--samples", "2")
    texts = [json.loads(line) for line in outcome.out.splitlines()]
    document = json.loads(Path("dreams.json").read_text())
    assert (outcome.err, document["interrupted"], document["segment_length"]) == ("", False, 4)
    assert [(one["prompt"], one["text"]) for one in document["texts"]] == [(t["prompt"], t["text"]) for t in texts]
    for text in document["texts"]:
        assert [one["end"] for one in text["segments"]] == [4 * (n + 1) for n in range(len(text["segments"]))] != []
        for one in text["segments"]:
            told = one["modules"]["dreaming"]
            steps = [step for dream in told["dreams"] for step in dream["steps"]]
            assert {len(nearest) for roles in [told["roles"], *steps] for nearest in roles.values()} == {2}


@pytest.mark.parametrize("name", ["dreams.graphml", "dreams.PNG", "dreams.html"])
def test_other_forms_are_written_too(cli: Any, place: Path, name: str) -> None:
    outcome = cli(*ASKED, "--dreams-out", name)
    assert (outcome.code, outcome.err, Path(name).stat().st_size > 1000) == (0, "", True)


def test_what_was_loaded_is_not_collected_while_texts_are_written(
    cli: Any, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen: list[int] = []

    def counting(number: int, segment: DreamtSegment) -> Iterator[Any]:
        frozen.append(gc.get_freeze_count())
        return iter(())

    monkeypatch.setattr("dreamlm.cli.dreams.panels", counting)
    assert cli(*ASKED, "--show-dreams").code == 0
    assert min(frozen) > 10_000
    assert gc.get_freeze_count() == 0


def test_an_interrupted_command_writes_what_was_dreamt_until_then(
    cli: Any, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def interrupting(number: int, segment: DreamtSegment) -> Iterator[Any]:
        seen.append(number)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return iter(())

    monkeypatch.setattr("dreamlm.cli.dreams.panels", interrupting)
    outcome = cli(*ASKED, "--show-dreams", "--dreams-out", "half.json")
    assert (outcome.code, outcome.out) == (130, "")
    assert outcome.err == "interrupted: half.json has what was dreamt until now\n"
    document = json.loads(Path("half.json").read_text())
    assert (document["interrupted"], [one["text"] for one in document["texts"]]) == (True, [None, None])
    assert sum(len(one["segments"]) for one in document["texts"]) == 3


def test_a_failure_leaves_the_file_as_it_was(cli: Any, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*arguments: object, **options: object) -> None:
        raise MemoryError

    Path("kept.json").write_text("before")
    monkeypatch.setattr("dreamlm.core.nn.decoder.DreamLM.segments", exhausted)
    assert cli(*ASKED, "--dreams-out", "kept.json").code == 1
    assert Path("kept.json").read_text() == "before"


def test_texts_without_a_whole_segment_say_so(cli: Any, place: Path) -> None:
    short = ("--set", "generate.min_new_tokens=0", "--max-new-tokens", "1", "--dreams-out", "none.json")
    outcome = cli("generate", "--run", "runs/dreamer", "", *short)
    assert outcome.err == "nothing was dreamt: no segment of 4 tokens was read to its end\n"
    assert [one["segments"] for one in json.loads(Path("none.json").read_text())["texts"]] == [[]]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (
            ("--dreams-out", "dreams.txt"),
            "error: dreams cannot be written as .txt\nat: dreams.txt\nvalid: dreams.g",
        ),
        (("--dreams-out", "no/dreams.json"), "error: dreams cannot be written here: No such file or directory\n"),
        (("--dream-neighbours", "3"), "error: --dream-neighbours is for dreams that are shown or written\n"),
    ],
)
def test_what_cannot_be_is_said_before_the_model_is_loaded(
    cli: Any, place: Path, options: tuple[str, ...], error: str
) -> None:
    outcome = cli("generate", "--run", "absent", "The fox", *options)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith(error)
