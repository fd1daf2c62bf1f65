"""How a reward model reads: [end-of-document] prompt answer [end-of-document], as tokens.

Prompt and answer are tokenised apart, as they are where a policy writes the answer. The last token asks for a verdict
on all before it, so an answer that was cut off is judged as if it ended there.

Shapes: B rows, T tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from dreamlm.core.tokenizer import Tokenizer


@dataclass(frozen=True)
class Reading:
    """What the model reads of one prompt and answer."""

    ids: tuple[int, ...]
    lost: int = 0
    """Tokens left out at the beginning because all together did not fit in the window."""


@dataclass(frozen=True)
class Rows:
    """Readings side by side, padded on the right, on the device of the model."""

    tokens_BT: Int[Tensor, "B T"]
    documents_BT: Int[Tensor, "B T"]
    """0, and -1 where there is padding."""
    last_B: Int[Tensor, " B"]
    """Column of each row's last real token."""
    padded: bool
    """Whether any row has padding."""


def readings(tokenizer: Tokenizer, window: int, texts: Sequence[tuple[str, str]]) -> list[Reading]:
    """A reading of at most `window` tokens for each prompt and answer.

    What does not fit is lost from the left: the oldest of the prompt first, the answer's end never.
    """
    prompts = tokenizer.encode_batch([prompt for prompt, _ in texts])
    answers = tokenizer.encode_batch([answer for _, answer in texts])
    end, room = tokenizer.end_of_document_id, window - 2
    found = []
    for prompt, answer in zip(prompts, answers, strict=True):
        lost = max(0, len(prompt) + len(answer) - room)
        found.append(Reading((end, *[*prompt, *answer][lost:], end), lost))
    return found


def side_by_side(rows: Sequence[Reading], padding_id: int, device: torch.device, length: int = 0) -> Rows:
    """The readings as one batch, of so many columns or as many as the longest needs."""
    lengths = torch.tensor([len(row.ids) for row in rows])
    longest = max(int(lengths.max()), length)
    tokens_BT = torch.tensor([[*row.ids, *[padding_id] * (longest - len(row.ids))] for row in rows])
    padding_BT = torch.arange(longest) >= lengths[:, None]
    documents_BT = -padding_BT.to(torch.int32)
    return Rows(tokens_BT.to(device), documents_BT.to(device), (lengths - 1).to(device), padded=bool(padding_BT.any()))
