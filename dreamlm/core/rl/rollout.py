"""Roll-outs: a batch of prompts in, answers and the log-probability of each of their tokens out.

Every token is drawn from the policy at a temperature, cut to its support: what top-k, the nucleus and forbidden tokens
leave. The support is part of the roll-out, so that training compares probabilities on the same support later.

Shapes: R rows, V vocabulary, N tokens of one answer, W bytes of a packed support.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from dreamlm.core.config import ConfigModel
from dreamlm.core.errors import TrainingFailed, UserMistake
from dreamlm.core.generation.sampler import Sampler, draw
from dreamlm.core.inference import inference
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.nn.signal import Carry
from dreamlm.core.rl.answer import Answer, Prompt
from dreamlm.core.rng import derive_seed
from dreamlm.core.tokenizer import Tokenizer

STAYING = 0.75
"""Rows that have ended leave the batch once only this share goes on: leaving costs a copy of the cache."""


class RolloutConfig(ConfigModel):
    """How the policy answers while it learns."""

    max_new_tokens: int = Field(64, ge=1)
    """An answer is cut off after this many tokens; the prompt gets what the window leaves."""
    min_new_tokens: int = Field(1, ge=1)
    """The document may not end before this many tokens, its end included."""
    temperature: float = Field(1.0, gt=0.0, le=100.0)
    """Divides the logits, in roll-outs and in training alike."""
    top_k: int = Field(0, ge=0)
    """Draw among the k most probable tokens; 0 is no limit."""
    top_p: float = Field(1.0, gt=0.0, le=1.0)
    """Draw among the fewest tokens whose probabilities reach this sum."""
    rows: int = Field(64, ge=1)
    """Answers written at once by each process; changes speed and memory."""

    @property
    def cuts(self) -> bool:
        """Whether tokens are drawn among some of the vocabulary only."""
        return self.top_p < 1.0 or self.top_k > 0

    def room(self, window: int) -> int:
        """Tokens of a window that are left for a prompt.  Raises: UserMistake when there are none."""
        room = window - self.max_new_tokens
        if room < 2:
            raise UserMistake(
                f"a window of {window} tokens has no room for a prompt and {self.max_new_tokens} new ones",
                where="rl.ppo.rollout.max_new_tokens",
                valid=[f"1 to {window - 2}"],
            )
        return room

    def sampler(self) -> Sampler:
        return Sampler.Config(temperature=self.temperature, top_k=self.top_k, top_p=self.top_p).build()


class LogitsNotFinite(TrainingFailed):
    """The policy's logits are NaN or infinite, so that no token can be drawn."""


@dataclass(frozen=True)
class Rollout:
    """One answer, and what training needs to know about how it was drawn."""

    answer: Answer
    log_probabilities_N: npt.NDArray[np.float32]
    """Of each token on its support at the temperature, by the pass that drew it, which reads the cache."""
    endless: int
    """How many of the first tokens could not have been the end of the document."""
    support_NW: npt.NDArray[np.uint8] | None
    """For each token one bit per vocabulary entry (`numpy.packbits`): what it could have been; None when it could
    have been anything but `Vocabulary.never` and, if it is one of the first, the end."""


@dataclass(frozen=True)
class Vocabulary:
    """Which tokens mean something."""

    end: int
    never: tuple[int, ...]
    """Padding, and entries of the model's table that no token of the tokenizer has."""

    @classmethod
    def of(cls, model: DreamLM, tokenizer: Tokenizer) -> "Vocabulary":
        """Raises: UserMistake when the tokenizer has more tokens than the model."""
        if tokenizer.vocab_size > model.vocab_size:
            what = f"the tokenizer has {tokenizer.vocab_size:,} tokens, the model knows {model.vocab_size:,}"
            raise UserMistake(what, hint="use the tokenizer that lies beside the model's weights")
        never = (tokenizer.padding_id, *range(tokenizer.vocab_size, model.vocab_size))
        return cls(tokenizer.end_of_document_id, never)


def prompt_ids(prompt: Prompt, tokenizer: Tokenizer, room: int) -> tuple[int, ...]:
    """What the model reads of a prompt: end of document, then its newest `room - 1` tokens.

    Raises: DataError when the prompt is no valid Unicode.
    """
    ids = tokenizer.encode(prompt.text)
    return (tokenizer.end_of_document_id, *ids[max(0, len(ids) - room + 1) :])


def roll_out(
    model: DreamLM, tokenizer: Tokenizer, prompts: Sequence[Prompt], config: RolloutConfig, seeds: Sequence[int]
) -> list[Rollout]:
    """An answer to every prompt, in their order; its seed alone decides an answer's random numbers.

    The model runs as in evaluation. Long prompts lose their oldest tokens.
    Raises: UserMistake when the window has no room for an answer; LogitsNotFinite.
    """
    room = config.room(model.config.seq_length)
    vocabulary = Vocabulary.of(model, tokenizer)
    rows = [
        _Row(prompt, prompt_ids(prompt, tokenizer, room), _uniforms(seed, config.max_new_tokens))
        for prompt, seed in zip(prompts, seeds, strict=True)
    ]
    # Rows of like length together: less padding, and none where all prompts of a batch are equally long.
    by_length = sorted(rows, key=lambda row: len(row.prompt_ids))
    with inference(model):
        for begin in range(0, len(rows), config.rows):
            _write(model, by_length[begin : begin + config.rows], config, vocabulary)
    return [row.result(tokenizer, vocabulary.end, config.min_new_tokens - 1) for row in rows]


class _Row:
    """An answer that is being written. Mutable: it belongs to one call of `roll_out`."""

    def __init__(self, prompt: Prompt, ids: tuple[int, ...], uniforms: list[float]) -> None:
        self.prompt, self.prompt_ids, self.uniforms = prompt, ids, uniforms
        self.ids: list[int] = []
        self.log_probabilities: list[float] = []
        self.supports: list[npt.NDArray[np.uint8]] = []
        self.done = False

    def result(self, tokenizer: Tokenizer, end: int, endless: int) -> Rollout:
        ended = self.ids[-1] == end
        text = tokenizer.decode(self.ids[:-1] if ended else self.ids)
        answer = Answer(self.prompt, self.prompt_ids, tuple(self.ids), text, ended)
        support = np.stack(self.supports) if self.supports else None
        return Rollout(answer, np.array(self.log_probabilities, dtype=np.float32), endless, support)


def _uniforms(seed: int, count: int) -> list[float]:
    generator = torch.Generator().manual_seed(derive_seed(seed, "roll-out"))
    numbers: list[float] = torch.rand(count, generator=generator, dtype=torch.float64).tolist()
    return numbers


def _write(model: DreamLM, rows: list[_Row], config: RolloutConfig, vocabulary: Vocabulary) -> None:
    """Write all rows to their ends, one token of each at a time."""
    sampler = config.sampler()
    hidden_RD, carry = _read(model, rows)
    for step in range(config.max_new_tokens):
        forbidden = [*vocabulary.never, vocabulary.end] if step + 1 < config.min_new_tokens else vocabulary.never
        logits_RV = model.logits(hidden_RD)
        logits_RV[:, torch.tensor(forbidden, device=model.device)] = -torch.inf
        weight_RV = sampler.probabilities(logits_RV)
        uniform_R = torch.tensor([row.uniforms[step] for row in rows], dtype=torch.float64, device=model.device)
        chosen_R = draw(weight_RV, uniform_R)
        log_probability_R = (weight_RV.gather(1, chosen_R[:, None])[:, 0] / weight_RV.sum(dim=1)).log()
        supports = _packed(weight_RV > 0) if config.cuts else None
        tokens, numbers = chosen_R.tolist(), log_probability_R.tolist()
        if not all(np.isfinite(numbers)):
            raise LogitsNotFinite("the policy's logits are not finite", hint="lower the learning rate")
        for place, row in enumerate(rows):
            if not row.done:
                row.ids.append(tokens[place])
                row.log_probabilities.append(numbers[place])
                row.done = tokens[place] == vocabulary.end
                if supports is not None:
                    row.supports.append(supports[place])
        going = [place for place, row in enumerate(rows) if not row.done]
        if not going or step + 1 == config.max_new_tokens:
            return
        if len(going) <= STAYING * len(rows):
            rows, carry = [rows[place] for place in going], carry.select(torch.tensor(going, device=model.device))
        hidden_RD, carry = _read_newest(model, rows, carry)


def _packed(support_RV: Bool[Tensor, "R V"]) -> npt.NDArray[np.uint8]:
    return np.packbits(support_RV.cpu().numpy(), axis=1)


def _read(model: DreamLM, rows: Sequence[_Row]) -> tuple[Float[Tensor, "R D"], Carry]:
    """Hidden vectors behind each prompt, and the carry of all of it."""
    length = max(len(row.prompt_ids) for row in rows)
    padding = [length - len(row.prompt_ids) for row in rows]
    tokens_RT = torch.tensor([[0] * left + [*row.prompt_ids] for left, row in zip(padding, rows, strict=True)])
    documents_RT = torch.tensor([[-1] * left + [0] * (length - left) for left in padding], dtype=torch.int32)
    carry = model.start(len(rows), left_padding=padding)
    signal = model(tokens_RT.to(model.device), documents_RT.to(model.device), carry, boundaries=any(padding))
    return signal.hidden[:, -1], signal.carry


def _read_newest(model: DreamLM, rows: Sequence[_Row], carry: Carry) -> tuple[Float[Tensor, "R D"], Carry]:
    tokens_R1 = torch.tensor([[row.ids[-1]] for row in rows], device=model.device)
    signal = model(tokens_R1, torch.zeros_like(tokens_R1, dtype=torch.int32), carry, boundaries=False)
    return signal.hidden[:, -1], signal.carry
