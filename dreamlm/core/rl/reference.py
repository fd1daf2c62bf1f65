"""The frozen model that reinforcement learning measures against: how likely it finds a text.

Shapes: B rows, X ids of the longest sequence of a batch, T targets (one less).
"""

from collections.abc import Sequence
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from dreamlm.core.errors import RangeError
from dreamlm.core.inference import inference
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.tokenizer import Tokenizer


@final
class Reference:
    """A model that is asked, never trained, and its tokenizer. A model that is being trained may be asked too."""

    def __init__(self, model: DreamLM, tokenizer: Tokenizer, rows: int = 16) -> None:
        """`rows`: sequences computed at once; changes speed and memory, not the result.  Raises: RangeError."""
        if rows < 1:
            raise RangeError(f"{rows} sequences cannot be computed at once", where="rows", valid=["1 and more"])
        self.model, self.tokenizer, self.rows = model, tokenizer, rows

    @property
    def room(self) -> int:
        """Tokens that a sequence may have behind its end-of-document token; the model does not read the last."""
        return self.model.config.seq_length

    def opened(self, ids: Sequence[int]) -> tuple[int, ...]:
        """A sequence of ids that begin no document yet: the end-of-document token, and the newest that have room."""
        return (self.tokenizer.end_of_document_id, *ids[max(0, len(ids) - self.room) :])

    def log_probabilities(self, sequences: Sequence[Sequence[int]]) -> list[Float[Tensor, " T"]]:
        """For each sequence the log-probability in nats of every token after the first, given those before it.

        A sequence opens with the end-of-document token. Temperature 1, the whole vocabulary; fp32 on the CPU.
        Raises: RangeError when a sequence opens otherwise or does not fit into the model's window.
        """
        for number, sequence in enumerate(sequences):
            self._check(number, sequence)
        found = [torch.empty(0)] * len(sequences)
        # Rows of like length make little padding; with the longest first, memory that is too small shows at once.
        asked = [number for number, sequence in enumerate(sequences) if len(sequence) > 1]
        asked.sort(key=lambda number: len(sequences[number]), reverse=True)
        for begin in range(0, len(asked), self.rows):
            numbers = asked[begin : begin + self.rows]
            nll_BT = self._nll([sequences[number] for number in numbers])
            for number, nll_T in zip(numbers, nll_BT, strict=True):
                found[number] = -nll_T[: len(sequences[number]) - 1]
        return found

    def _nll(self, sequences: Sequence[Sequence[int]]) -> Float[Tensor, "B T"]:
        """Negative log-likelihood of each target; 0 where a row has none any more."""
        shape = (len(sequences), max(len(sequence) for sequence in sequences))
        tokens_BX = torch.full(shape, self.tokenizer.padding_id)
        documents_BX = torch.full(shape, -1, dtype=torch.int32)
        for row, sequence in enumerate(sequences):
            tokens_BX[row, : len(sequence)] = torch.tensor(sequence)
            documents_BX[row, : len(sequence)] = 0
        target_BT = torch.where(documents_BX >= 0, tokens_BX, -1)[:, 1:].to(self.model.device)
        padded = bool((documents_BX < 0).any())
        with inference(self.model):
            signal = self.model(
                tokens_BX[:, :-1].to(self.model.device),
                documents_BX[:, :-1].to(self.model.device),
                self.model.start(len(sequences), records=False),
                boundaries=padded,
            )
            nll_N = self.model.head.token_nll(signal.hidden.flatten(0, 1), target_BT.flatten())
        return nll_N.view(target_BT.shape).float().cpu()

    def _check(self, number: int, sequence: Sequence[int]) -> None:
        end = self.tokenizer.end_of_document_id
        if not sequence or sequence[0] != end:
            raise RangeError(
                "a sequence does not open with the end-of-document token", where=f"sequence {number}", valid=[str(end)]
            )
        if len(sequence) - 1 > self.room:
            raise RangeError(
                f"{len(sequence) - 1} tokens do not fit into the model's window",
                where=f"sequence {number}",
                valid=[f"at most {self.room} behind the end-of-document token"],
                hint="cut the oldest tokens off",
            )
