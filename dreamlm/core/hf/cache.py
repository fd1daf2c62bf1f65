"""The decoder's carry as a cache of transformers."""

from typing import final

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from dreamlm.core.errors import UserMistake
from dreamlm.core.nn.signal import Carry


@final
class CarryCache(Cache):  # type: ignore[misc]
    """Holds the newest carry: every layer's keys and values, and the states of cognitive modules.

    Mutable, as transformers expects: a forward pass replaces the carry, a beam search reorders its rows.
    """

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.carry: Carry | None = None
        """None before the first token."""

    def __repr__(self) -> str:
        return f"CarryCache({self.get_seq_length()} tokens)"

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Columns read so far, padding included."""
        return 0 if self.carry is None else self.carry.tokens

    def get_max_length(self, layer_idx: int | None = None) -> int:
        """-1: it grows as needed."""
        return -1

    @property
    def batch_size(self) -> int:
        """Rows; -1 before the first token."""
        return -1 if self.carry is None else self.carry.rows

    @property
    def is_croppable(self) -> bool:
        return False

    def crop(self, tokens_to_remove: int) -> None:
        """Raises: UserMistake; what a module has written cannot be taken back."""
        raise no_assistants()

    def reset(self) -> None:
        self.carry = None

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        if self.carry is not None:
            self.carry = self.carry.select(indices.to(self.carry.last_document_B.device))

    def batch_repeat_interleave(self, repeats: int) -> None:
        if self.carry is not None:
            rows = torch.arange(self.carry.rows, device=self.carry.last_document_B.device)
            self.carry = self.carry.select(rows.repeat_interleave(repeats))


def no_assistants() -> UserMistake:
    """What is told when decoding is to be assisted, and tokens would have to be taken back."""
    return UserMistake(
        "a carry cannot be cropped, so dreamlm's models are no assistants and have none",
        where="generate(assistant_model=..., prompt_lookup_num_tokens=...)",
        hint="generate without assisted decoding",
    )
