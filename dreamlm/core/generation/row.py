"""One text that is being written: its tokens, what is certain of its text, and whether it has ended."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from dreamlm.core.errors import DreamLMError, UserMistake
from dreamlm.core.generation.ngram import NgramBlock
from dreamlm.core.generation.places import NOTHING_TO_SEE, Places
from dreamlm.core.generation.sampler import Sampler
from dreamlm.core.generation.stopping import StopScanner
from dreamlm.core.rng import derive_seed
from dreamlm.core.tokenizer import TextStream, Tokenizer

FinishReason = Literal["end", "stop", "length"]


@dataclass(frozen=True)
class Generation:
    """A text a model wrote, and how it came to its end."""

    prompt: str
    text: str
    """What follows the prompt, up to the stop string or the end of the document; a character that the length limit cuts
    is U+FFFD."""
    token_ids: tuple[int, ...]
    """Every new token but the end of the document; with a stop string they reach past `text`."""
    finish_reason: FinishReason
    """`end` of the document, a `stop` string, or the `length` limit."""
    mean_log_probability: float
    """Mean in nats over the chosen tokens, the end of the document too, at temperature 1 with nothing cut off."""
    dropped_prompt_tokens: int
    """Oldest tokens of the prompt that the model never read, because its window has not room for them."""


class Row:
    """A prompt and what was written behind it so far. Mutable: it belongs to one call of `generate`."""

    def __init__(
        self,
        index: int,
        prompt: str,
        prompt_ids: list[int],
        tokenizer: Tokenizer,
        config: Sampler.Config,
        places: Places = NOTHING_TO_SEE,
    ):
        self.index, self.prompt, self.places = index, prompt, places
        self.tokens = [tokenizer.end_of_document_id, *places.ids, *prompt_ids]
        self.begin = 0
        """The first of the tokens that the model still sees."""
        self.prompt_length = len(self.tokens)
        """How many tokens the text begins with that were given."""
        self.finish_reason: FinishReason | None = None
        self._end_id, self._max_new_tokens = tokenizer.end_of_document_id, config.max_new_tokens
        self._chosen, self._dropped = 0, 0
        self._log_probability = 0.0
        self._text: list[str] = []
        self._stream, self._scanner = TextStream(tokenizer, prompt_ids), StopScanner(config.stop)
        # Places are no words, that their order could come again.
        self._history = 1 + len(places.ids) if config.ngram_scope == "all" else self.prompt_length
        self._blocks = [NgramBlock(config.no_repeat_ngram, self.history)] if config.no_repeat_ngram else []
        self._generator = torch.Generator().manual_seed(derive_seed(config.seed, "generate", index))

    @property
    def context(self) -> list[int]:
        """The tokens that the model sees."""
        return self.tokens[self.begin :]

    @property
    def new_tokens(self) -> int:
        """Tokens chosen so far."""
        return self._chosen

    @property
    def history(self) -> list[int]:
        """The tokens whose n-grams may not come again."""
        return self.tokens[self._history :]

    def keep(self, newest: int) -> None:
        """Let the model see only this many of the newest tokens."""
        self.begin = len(self.tokens) - newest
        if self._chosen == 0:
            # The opening end-of-document token is not the user's.
            self._dropped = max(0, self.begin - 1)

    def require_picture(self, window: int) -> None:
        """Raises: UserMistake when the model would see less than all of the prompt's picture."""
        if self.places.ids and self.begin:
            raise UserMistake(
                f"a picture and a prompt of {len(self.tokens):,} tokens do not fit into the window of {window:,}",
                where=f"prompt {self.index}",
                hint="shorten the prompt",
            )

    def uniform(self) -> float:
        """The row's next random number in [0, 1)."""
        return torch.rand((), generator=self._generator, dtype=torch.float64).item()

    def uniforms(self, count: int) -> Float[Tensor, " N"]:
        """The row's next random numbers in [0, 1)."""
        return torch.rand(count, generator=self._generator, dtype=torch.float64)

    def blocked(self) -> list[int]:
        """Tokens that would repeat an n-gram; the end of the document is never among them."""
        return [token for block in self._blocks for token in block.blocked() if token != self._end_id]

    def push(self, token: int, log_probability: float) -> str:
        """Take the chosen token; returns the text that became certain.

        Raises: DreamLMError when the model's logits were not finite.
        """
        if not math.isfinite(log_probability):
            raise DreamLMError(
                "the model gave logits that are not finite",
                where=f"prompt {self.index}, new token {self._chosen}",
                hint="the weights may be damaged or have diverged: dreamlm ckpt verify, or an earlier snapshot",
            )
        self._chosen += 1
        self._log_probability += log_probability
        if token == self._end_id:
            return self._finish("end")
        self.tokens.append(token)
        for block in self._blocks:
            block.push(token)
        certain = self._scan(self._stream.push([token]))
        if self.finish_reason is None and self._chosen == self._max_new_tokens:
            certain += self._finish("length")
        return certain

    def result(self) -> Generation:
        """The finished text."""
        assert self.finish_reason is not None, "the row has not ended"
        return Generation(
            self.prompt,
            "".join(self._text),
            tuple(self.tokens[self.prompt_length :]),
            self.finish_reason,
            self._log_probability / self._chosen,
            self._dropped,
        )

    def _scan(self, text: str) -> str:
        piece = self._scanner.push(text)
        if piece.stopped:
            self.finish_reason = "stop"
        self._text.append(piece.text)
        return piece.text

    def _finish(self, reason: FinishReason) -> str:
        certain = self._scan(self._stream.finish())
        if self.finish_reason is None:
            self.finish_reason = reason
            held = self._scanner.finish()
            self._text.append(held)
            certain += held
        return certain
