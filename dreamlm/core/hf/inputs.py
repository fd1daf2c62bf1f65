"""What transformers' callers hand to the model, looked at before it is used.

Shapes: B rows, T new tokens, P tokens read before, V vocabulary.
"""

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from dreamlm.core.errors import RangeError, UserMistake
from dreamlm.core.nn.signal import Carry

INTEGERS = (torch.int32, torch.int64)
NO_TARGET = -100
"""What transformers gives as label where nothing is to be predicted."""


def checked(tokens: Any, mask: Any, labels: Any, carry: Carry | None, vocab_size: int) -> Int[Tensor, "B T"]:
    """The ids, when there is a mask (B, T to P + T) or none, labels (B, T) or none, and a cache of B rows or none.

    Raises: UserMistake for another form; RangeError for a number that is no token.  Numbers are looked at on the CPU
    alone, where that costs nothing; elsewhere every pass would wait for the answer.
    """
    tokens_BT = _ids("input_ids", tokens)
    rows, length = tokens_BT.shape
    if carry is not None and carry.rows != rows:
        raise UserMistake(
            f"the cache has {carry.rows} rows, and the tokens have {rows}",
            where="past_key_values",
            hint="go on with the rows that were read before, or choose some by cache.batch_select_indices",
        )
    _require_mask(mask, rows, length, length + (0 if carry is None else carry.tokens))
    hint = f"padding is any token under a 0 of the attention mask; {NO_TARGET} is for labels only"
    _require_range("input_ids", tokens_BT, vocab_size, hint)
    if labels is not None:
        labels_BT = _ids("labels", labels)
        if labels_BT.shape != tokens_BT.shape:
            raise UserMistake(
                f"the labels are {_told(labels_BT)}, for tokens {rows}x{length}",
                where="labels",
                hint="give the tokens themselves: they are shifted here",
            )
        real = labels_BT[labels_BT != NO_TARGET] if labels_BT.device.type == "cpu" else labels_BT
        _require_range("labels", real, vocab_size, f"{NO_TARGET} says that there is nothing to predict")
    return tokens_BT


def _ids(name: str, ids: Any) -> Tensor:
    if ids is None:
        raise UserMistake(
            "there are no token ids to read",
            where=name,
            hint="pass input_ids=, as a tokenizer gives with return_tensors='pt'",
        )
    if not isinstance(ids, Tensor) or ids.dtype not in INTEGERS or ids.ndim != 2 or not ids.numel():
        raise UserMistake(
            f"{name} must be a tensor of rows of integers, and not {_told(ids)}",
            where=name,
            hint="one row is ids[None]; a tokenizer gives such a tensor with return_tensors='pt'",
        )
    return ids


def _require_mask(mask: Any, rows: int, length: int, most: int) -> None:
    if mask is None:
        return
    if not isinstance(mask, Tensor) or mask.ndim != 2 or len(mask) != rows or not length <= mask.shape[1] <= most:
        found = "x".join(map(str, mask.shape)) if isinstance(mask, Tensor) else _told(mask)
        raise UserMistake(
            f"the attention mask is {found}, for tokens {rows}x{length}",
            where="attention_mask",
            hint="give one 0 or 1 for each token, of the past as well",
        )


def _require_range(name: str, ids: Tensor, vocab_size: int, hint: str) -> None:
    if ids.device.type != "cpu" or not ids.numel():
        return
    least, most = (int(end) for end in ids.aminmax())
    if least < 0 or most >= vocab_size:
        raise RangeError(
            f"{least if least < 0 else most} is no token: the vocabulary has {vocab_size}",
            where=name,
            valid=[f"0 to {vocab_size - 1}"],
            hint=hint,
        )


def _told(given: Any) -> str:
    """Its shape, and its type where that is what is wrong."""
    if not isinstance(given, Tensor):
        return f"a {type(given).__name__}"
    form = "x".join(map(str, given.shape)) or "a single number"
    return f"{form} of {str(given.dtype).removeprefix('torch.')}" if given.dtype not in INTEGERS else form
