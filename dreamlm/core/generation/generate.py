"""Prompts in, texts out; a diffusion model writes as in `generation.blocks`, every other one so:

    1. each prompt becomes [end of document] + its tokens, as every document began in training
    2. prompts of a batch are padded on the left; padding belongs to document -1, which nothing attends to
    3. a step: read the newest token of every row -> logits -> forbid -> choose -> text that is certain goes out
    4. rows that ended leave the batch; a text longer than the model's window is read again from its last half

Shapes: R rows still writing, T tokens read at once, V vocabulary.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from dreamlm.core.errors import RangeError, UserMistake
from dreamlm.core.generation.blocks import BlockWriter
from dreamlm.core.generation.filling import OnBlocks, ignore_blocks
from dreamlm.core.generation.places import NOTHING_TO_SEE, places_of, view_of
from dreamlm.core.generation.row import Generation, Row
from dreamlm.core.generation.sampler import Sampler
from dreamlm.core.generation.segments import OnSegments, Reader, ignore_segments
from dreamlm.core.generation.window import ContextWindow
from dreamlm.core.inference import inference
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.nn.signal import Carry
from dreamlm.core.tokenizer import Tokenizer


def ignore_text(prompt: int, text: str) -> None:
    """For callers who want only the finished texts."""


def generate(
    model: DreamLM,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    config: Sampler.Config,
    on_text: Callable[[int, str], None] = ignore_text,
    *,
    on_segments: OnSegments = ignore_segments,
    on_blocks: OnBlocks = ignore_blocks,
    pictures: Sequence[npt.NDArray[np.uint8]] = (),
    window: int | None = None,
    first_prompt: int = 0,
) -> list[Generation]:
    """Continue every prompt; the result has the prompts' order.

    on_text: called with a prompt's number and the next certain piece of its text; the pieces join to `Generation.text`.
    on_segments: called when the model has read segments to their ends, those of the prompts too.
    on_blocks: called while a diffusion model writes, with the block of every text of a batch, before its first step and
    after each.
    pictures: one before each prompt, (3, H, W) in the model's `image_form`; none by default.
    window: tokens the model may attend to at once; default the length of its training windows.
    first_prompt: number of the first prompt; a prompt's number and the seed alone decide its random numbers.

    A prompt that does not fit into the window loses its oldest tokens (`Generation.dropped_prompt_tokens`). A text that
    outgrows the window behind a picture loses sight of it: what it is read again from is its last half.
    When n-gram blocking leaves no token and the document may not end yet, blocking is lifted for that one token.
    Same arguments, same texts; a text changes with its batch neighbours only where two choices tie within rounding.

    Raises: RangeError for an impossible window; UserMistake when model and tokenizer do not belong together, the model
    takes no pictures, or a picture with its prompt does not fit into the window;
    DataError when a prompt is no valid Unicode; DreamLMError when the model's logits are not finite.
    """
    context = ContextWindow(_window_size(model, window))
    if tokenizer.vocab_size > model.vocab_size:
        raise UserMistake(
            f"the tokenizer has {tokenizer.vocab_size:,} tokens, the model knows {model.vocab_size:,}",
            hint="use the tokenizer that lies beside the model's weights",
        )
    encoded = tokenizer.encode_batch(prompts)
    places = [places_of(model, picture) for picture in pictures] or [NOTHING_TO_SEE] * len(prompts)
    rows = [
        Row(first_prompt + number, prompt, ids, tokenizer, config, shown)
        for number, (prompt, ids, shown) in enumerate(zip(prompts, encoded, places, strict=True))
    ]
    # The model may have more rows in its table than the tokenizer has tokens.
    never = [tokenizer.padding_id, *range(tokenizer.vocab_size, model.vocab_size)]
    end_id = tokenizer.end_of_document_id
    reader = Reader(model, on_segments)
    with inference(model):
        for begin in range(0, len(rows), config.rows):
            some = rows[begin : begin + config.rows]
            if model.config.diffusion is None:
                _write(reader, some, config, context, never, end_id, on_text)
            else:
                writer = BlockWriter(reader, config, never, end_id, tokenizer.padding_id, context.size)
                writer.write(some, on_text, on_blocks)
    return [row.result() for row in rows]


def _window_size(model: DreamLM, window: int | None) -> int:
    size = model.config.seq_length if window is None else window
    least, most = max(2, model.config.block), model.max_positions
    if size < least or (most is not None and size > most):
        limit = f"at least {least}" if most is None else f"{least} to {most}, the positions the model has"
        raise RangeError(f"a window of {size} tokens is impossible", where="window", valid=[limit])
    return size


def _write(
    reader: Reader,
    rows: list[Row],
    config: Sampler.Config,
    context: ContextWindow,
    never: list[int],
    end_id: int,
    on_text: Callable[[int, str], None],
) -> None:
    """Write all rows to their ends, one token of each at a time."""
    model, sampler = reader.model, config.build()
    for row in rows:
        row.keep(context.opening(len(row.tokens), config.max_new_tokens))
        row.require_picture(context.size)
    hidden_RD, carry = _read(reader, rows)
    for step in range(config.max_new_tokens):
        logits_RV = model.logits(hidden_RD)
        forbidden = [*never, end_id] if step < config.min_new_tokens else never
        allowed_RV = _forbid(logits_RV, forbidden, [row.blocked() for row in rows])
        uniforms = [row.uniform() for row in rows] if config.draws else [0.0] * len(rows)
        chosen_R = sampler.choose(allowed_RV, torch.tensor(uniforms, dtype=torch.float64, device=model.device))
        log_probability_R = logits_RV.gather(1, chosen_R[:, None])[:, 0] - logits_RV.logsumexp(dim=1)
        # One transfer a step: token ids are exact in float64.
        tokens, log_probabilities = torch.stack([chosen_R.double(), log_probability_R.double()]).tolist()
        for row, token, log_probability in zip(rows, tokens, log_probabilities, strict=True):
            if piece := row.push(int(token), log_probability):
                on_text(row.index, piece)
        going = [place for place, row in enumerate(rows) if row.finish_reason is None]
        if not going:
            return
        if len(going) < len(rows):
            rows, carry = [rows[place] for place in going], carry.select(torch.tensor(going, device=model.device))
        if (step + 1) % context.stride == 0 and _slide(rows, context, config.max_new_tokens - step - 1):
            hidden_RD, carry = _read(reader, rows)
        else:
            hidden_RD, carry = _read_newest(reader, rows, carry)


def _slide(rows: Iterable[Row], context: ContextWindow, coming: int) -> bool:
    """Move every row that needs room for the coming tokens; whether any moved."""
    moved = False
    for row in rows:
        length = len(row.tokens) - row.begin
        kept = context.kept(length, coming)
        if kept < length:
            row.keep(kept)
            moved = True
    return moved


def _read(reader: Reader, rows: Sequence[Row]) -> tuple[Float[Tensor, "R D"], Carry]:
    """Hidden vectors behind each row's newest token, and the carry of their whole contexts."""
    model = reader.model
    contexts = [row.context for row in rows]
    length = max(map(len, contexts))
    tokens_RT = torch.tensor([[0] * (length - len(ids)) + ids for ids in contexts], device=model.device)
    documents_RT = torch.tensor(
        [[-1] * (length - len(ids)) + [0] * len(ids) for ids in contexts], dtype=torch.int32, device=model.device
    )
    padding = [length - len(ids) for ids in contexts]
    carry = model.start(len(rows), left_padding=padding)
    view = view_of(model, [row.places for row in rows], tokens_RT)
    signal = reader.read(rows, tokens_RT, documents_RT, carry, boundaries=any(padding), view=view)
    return signal.hidden[:, -1], signal.carry


def _read_newest(reader: Reader, rows: Sequence[Row], carry: Carry) -> tuple[Float[Tensor, "R D"], Carry]:
    """The same, when all but the newest token of each row was read before."""
    device = reader.model.device
    tokens_R1 = torch.tensor([[row.tokens[-1]] for row in rows], device=device)
    documents_R1 = torch.zeros(len(rows), 1, dtype=torch.int32, device=device)
    signal = reader.read(rows, tokens_R1, documents_R1, carry, boundaries=False)
    return signal.hidden[:, -1], signal.carry


def _forbid(
    logits_RV: Float[Tensor, "R V"], never: Sequence[int], blocked: Sequence[Sequence[int]]
) -> Float[Tensor, "R V"]:
    """The logits, minus infinity where a token may not come; a row in which nothing is left drops its own blocks."""
    allowed_RV = logits_RV.clone()
    allowed_RV[:, torch.tensor(never, device=logits_RV.device)] = -torch.inf
    if not any(blocked):
        return allowed_RV
    places = [(row, token) for row, tokens in enumerate(blocked) for token in tokens]
    row_N, token_N = torch.tensor(places, device=logits_RV.device).T
    unblocked_RV = allowed_RV.clone()
    allowed_RV[row_N, token_N] = -torch.inf
    nothing_R1 = allowed_RV.isneginf().all(dim=1, keepdim=True)
    return torch.where(nothing_R1, unblocked_RV, allowed_RV)
