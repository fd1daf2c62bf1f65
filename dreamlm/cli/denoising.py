"""What a person sees of a diffusion model's writing: each text's block, and the tokens that appear in it."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, final

from dreamlm.cli.canvas import Canvas, Piece
from dreamlm.cli.console import Console

if TYPE_CHECKING:
    from dreamlm.core.generation.filling import BlockView
    from dreamlm.core.nn.decoder import DreamLM
    from dreamlm.core.tokenizer import Tokenizer

MASKED, END, LINE_END = "░", "∎", "⏎"
_BEFORE = 48
"""Characters of the text before the block that are shown."""


class Watcher(ABC):
    """Looks on while a batch of texts is written."""

    @abstractmethod
    def on_text(self, prompt: int, piece: str) -> None:
        """Another certain piece of a text."""

    @abstractmethod
    def on_blocks(self, blocks: Sequence["BlockView"]) -> None:
        """The blocks of all texts that are being written."""


@final
class Unwatched(Watcher):
    """Looks away."""

    def on_text(self, prompt: int, piece: str) -> None: ...

    def on_blocks(self, blocks: Sequence["BlockView"]) -> None: ...


@final
class LiveBlocks(Watcher):
    """Draws every block of a batch: behind the end of its text, the darker the surer the model was of a token."""

    def __init__(self, canvas: Canvas, tokenizer: "Tokenizer", texts: Sequence[str], first: int) -> None:
        """texts: the prompts, `first` the number of the first."""
        self._canvas, self._tokenizer = canvas, tokenizer
        self._texts = dict(enumerate(texts, start=first))

    def on_text(self, prompt: int, piece: str) -> None:
        self._texts[prompt] = (self._texts[prompt] + piece)[-_BEFORE:]

    def on_blocks(self, blocks: Sequence["BlockView"]) -> None:
        self._canvas.show([self._line(block) for block in blocks])

    def _line(self, block: "BlockView") -> list[Piece]:
        before = _on_one_line(self._texts[block.prompt][-_BEFORE:])
        place = f"text {block.prompt + 1}  block {block.number + 1}  step {block.step}/{block.steps}  "
        return [Piece(place), Piece(before), *self._pieces(block)]

    def _pieces(self, block: "BlockView") -> Iterator[Piece]:
        """The block's tokens; a character of several tokens stands where the last of them does."""
        from dreamlm.core.tokenizer import TextStream

        stream = TextStream(self._tokenizer)
        for token, probability in zip(block.token_ids, block.probabilities, strict=True):
            if token is not None and token != self._tokenizer.end_of_document_id:
                yield Piece(_on_one_line(stream.push([token])), probability)
                continue
            # What an open place may complete is not known yet.
            yield Piece(_on_one_line(stream.finish()))
            stream = TextStream(self._tokenizer)
            yield Piece(MASKED) if token is None else Piece(END, probability)
        yield Piece(_on_one_line(stream.finish()))


def require_blocks(model: "DreamLM", options: Mapping[str, object]) -> None:
    """options: those that are about blocks, by name; None where the user did not give one.

    Raises: UserMistake when the user gave one and the model writes one token after another.
    """
    given = [name for name, value in options.items() if value is not None]
    if given and model.config.diffusion is None:
        from dreamlm.core.errors import UserMistake

        what = "this model writes one token after another: there is no block that is filled in step by step"
        where, it = ", ".join(given), "them" if given[1:] else "it"
        raise UserMistake(what, where=where, hint=f"leave {it} out, or name a model with model.diffusion")


@contextmanager
def watching(
    console: Console, tokenizer: "Tokenizer", texts: Sequence[str], first: int, watch: bool
) -> Iterator[Watcher]:
    """Who looks on in the block.  texts: the prompts of a batch, `first` the number of the first."""
    if not watch:
        yield Unwatched()
        return
    with console.canvas() as canvas:
        yield LiveBlocks(canvas, tokenizer, texts, first)


def _on_one_line(text: str) -> str:
    """The text with a sign for each line's end, and nothing in it that a terminal would obey."""
    return "".join(one if one.isprintable() else LINE_END if one == "\n" else " " for one in text)
