"""`dreamlm generate --show-denoising`: what is shown while blocks are filled in; the texts stay what they are."""

import io
import json
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from terminal import Terminal

from dreamlm.cli.app import run as run_command
from dreamlm.cli.canvas import Canvas, Piece, PlainCanvas
from dreamlm.cli.console import Console
from dreamlm.cli.denoising import END, LINE_END, MASKED, LiveBlocks
from dreamlm.core.generation.filling import BlockView
from dreamlm.core.tokenizer import BytePair, Tokenizer

PRESET = {
    "name": "blocks",
    "model": {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "seq_length": 16, "diffusion": {"block_size": 4}},
    "tokenizer": {"type": "bpe", "vocab_size": 300},
    "data": {"sources": [{"type": "jsonl", "paths": "lines.jsonl"}], "validation_fraction": 0.1, "min_text_length": 1},
    "train": {"train_tokens": 500, "per_gpu_batch_size": 8, "eval_tokens": 500, "precision": "fp32"},
    "generate": {"max_new_tokens": 8, "min_new_tokens": 8},
}
CAUSAL = ("model.diffusion=null", "generate.denoising.steps=3")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with two runs: of a diffusion model, and of a causal one."""
    folder = tmp_path_factory.mktemp("blocks")
    lines = [f"Line {number} says {number * number} and no more." for number in range(200)]
    (folder / "lines.jsonl").write_text("\n".join(json.dumps({"text": line}) for line in lines))
    (folder / "blocks.json").write_text(json.dumps(PRESET))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("DREAMLM_HOME", str(folder / "home"))
        assert run_command(["train", "--preset", "blocks.json"]) == 0
        causal = ["--run", "runs/causal", *(word for change in CAUSAL for word in ("--set", change))]
        assert run_command(["train", "--preset", "blocks.json", *causal]) == 0
        yield folder


@pytest.mark.parametrize("options", [(), ("--json",), ("--samples", "3", "--batch-size", "2")], ids=str)
def test_the_texts_are_the_same_with_and_without(cli: Any, place: Path, options: tuple[str, ...]) -> None:
    asked = ("generate", "--run", "runs/blocks", "Line 7", "Line", *options)
    plain, watched = cli(*asked), cli(*asked, "--show-denoising")
    assert (plain.code, watched.code) == (0, 0)
    assert watched.out == plain.out
    assert plain.err == ""


def test_without_a_terminal_each_step_of_each_text_is_a_line(cli: Any, place: Path) -> None:
    shown = cli("generate", "--run", "runs/blocks", "Line 7", "", "--show-denoising", "--diffusion-steps", "2")
    lines = shown.err.splitlines()
    assert all(re.match(r"text [12]  block [1-9]\d*  step [0-2]/2  ", line) for line in lines)
    assert lines[0].startswith("text 1  block 1  step 0/2  Line 7░")
    assert lines[1] == "text 2  block 1  step 0/2  ░░░░"
    assert lines[5].count(MASKED) == 0


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--show-denoising"], "--show-denoising"),
        (["--diffusion-steps", "4"], "--diffusion-steps"),
        (["--confidence", "entropy"], "--confidence"),
        (["--show-denoising", "--diffusion-steps", "0"], "--diffusion-steps, --show-denoising"),
    ],
)
def test_a_causal_model_has_no_blocks(options: list[str], named: str, cli: Any, place: Path) -> None:
    outcome = cli("generate", "--run", "runs/causal", "Line 7", *options)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith("error: this model writes one token after another")
    assert f"at: {named}\n" in outcome.err


def test_settings_about_blocks_that_nobody_named_bother_no_causal_model(cli: Any, place: Path) -> None:
    assert json.loads((place / "runs/causal/preset.json").read_text())["generate"]["denoising"]["steps"] == 3
    assert cli("generate", "--run", "runs/causal", "Line 7").code == 0


def test_eval_tells_a_bound_as_one_and_never_without_its_error(cli: Any, place: Path) -> None:
    bound, exact = (cli("eval", "--run", f"runs/{name}").out for name in ("blocks", "causal"))
    assert "an upper bound, as a diffusion model has no other" in bound
    assert "its standard error of estimation is at most about 0.0" in bound
    assert "bound" not in exact
    outcome = cli("eval", "--run", "runs/blocks", "--set", "eval.bound_samples=1")
    assert (outcome.code, outcome.out) == (2, "")
    assert "eval.bound_samples" in outcome.err


class Shown(Canvas):
    """Keeps what was shown."""

    def __init__(self) -> None:
        self.frames: list[list[list[Piece]]] = []

    def show(self, lines: Sequence[Sequence[Piece]]) -> None:
        self.frames.append([[piece for piece in line if piece.text] for line in lines])

    def close(self) -> None: ...


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return BytePair(vocab_size=300).build(["a plain text with — one — dash\n" * 20])


def test_a_line_is_the_text_and_its_block_with_a_shade_for_each_token(tokenizer: Tokenizer) -> None:
    canvas = Shown()
    live = LiveBlocks(canvas, tokenizer, ["first", "a\nplain"], first=4)
    live.on_text(5, " text")
    dash, end = tokenizer.encode("—"), tokenizer.end_of_document_id
    ids = (*dash, None, *tokenizer.encode("\x1b\n"), end, tokenizer.padding_id)
    shades = tuple(0.0 if one is None else 0.5 for one in ids)
    live.on_blocks([BlockView(5, 1, 3, 8, ids, shades)])
    [[line]] = canvas.frames
    shown = "".join(piece.text for piece in line)
    assert shown == f"text 6  block 2  step 3/8  a{LINE_END}plain text—{MASKED} {LINE_END}{END}"
    assert [piece.shade for piece in line if piece.text in ("—", MASKED, END)] == [0.5, None, 0.5]


def test_a_character_is_shown_when_all_of_its_tokens_are_there() -> None:
    canvas = Shown()
    bytewise = BytePair(vocab_size=258).build(["x"])
    live, dash = LiveBlocks(canvas, bytewise, [""], first=0), bytewise.encode("—")
    assert len(dash) == 3
    for count in (2, 3):
        live.on_blocks([BlockView(0, 0, 1, 8, (*dash[:count], *[None] * (4 - count)), (0.9,) * 4)])
    texts = ["".join(piece.text for piece in frame[0]) for frame in canvas.frames]
    assert [text.removeprefix("text 1  block 1  step 1/8  ") for text in texts] == [f"\ufffd{MASKED * 2}", f"—{MASKED}"]


def test_only_the_end_of_a_long_text_is_shown(tokenizer: Tokenizer) -> None:
    canvas = Shown()
    live = LiveBlocks(canvas, tokenizer, ["x" * 500], first=0)
    live.on_text(0, "y" * 20)
    live.on_blocks([BlockView(0, 0, 0, 8, (None,), (0.0,))])
    assert [piece.text for piece in canvas.frames[0][0]][1:] == ["x" * 28 + "y" * 20, MASKED]


def test_plain_lines_stay() -> None:
    stream = io.StringIO()
    canvas = PlainCanvas(stream)
    canvas.show([[Piece("one "), Piece("two", 0.5)], [Piece("three")]])
    canvas.close()
    assert stream.getvalue() == "one two\nthree\n"


def test_a_terminal_draws_shades_and_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    for colours, expected in (({}, True), ({"NO_COLOR": "1"}, False)):
        screen = Terminal()
        monkeypatch.setattr("sys.stderr", screen)
        monkeypatch.setenv("TERM", "xterm-256color")
        monkeypatch.setenv("COLORTERM", "truecolor")
        monkeypatch.delenv("NO_COLOR", raising=False)
        for name, value in colours.items():
            monkeypatch.setenv(name, value)
        with Console().canvas() as canvas:
            canvas.show([[Piece("text 1  "), Piece("sure", 1.0), Piece("unsure", 0.0), Piece(MASKED)]])
        drawn = screen.getvalue()
        assert "unsure" in drawn
        assert ("48;2;90;195;90" in drawn, "48;2;240;245;240" in drawn) == (expected, expected)
        assert drawn.rstrip().endswith("\x1b[2K")  # the line is wiped at the end


def test_on_a_terminal_a_panel_stands_above_the_lines_that_change(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    console = Console()
    with console.canvas() as canvas:
        canvas.show([[Piece("a block")]])
        deadline = time.monotonic() + 10
        while "a block" not in screen.getvalue() and time.monotonic() < deadline:
            time.sleep(0.01)
        console.panel("a dream", [("text", [("words", "")])])
        assert screen.getvalue().rindex("words") < screen.getvalue().rindex("a block")
