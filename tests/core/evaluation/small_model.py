"""An untrained model with losses that differ from token to token, and held-out windows made by hand."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.types import Batch

VOCAB_SIZE, SEQ_LENGTH = 40, 12


def small_model() -> DreamLM:
    torch.manual_seed(2)
    model = DreamLM.Config(hidden_size=16, num_layers=2, num_heads=2, seq_length=SEQ_LENGTH).build(VOCAB_SIZE)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(3)
    return model


@dataclass(frozen=True)
class HandMade:
    """Windows with packed documents and padding; implements `core.types.HeldOut`."""

    windows: np.ndarray
    documents: np.ndarray
    sources: np.ndarray
    utf8_bytes: int = 1000

    @property
    def tokens(self) -> int:
        return int((self.documents[:, 1:] >= 0).sum())

    def batches(self, rows: int) -> Sequence[Batch]:
        return [
            Batch(
                tokens=self.windows[begin : begin + rows],
                documents=self.documents[begin : begin + rows],
                sources=self.sources[begin : begin + rows],
            )
            for begin in range(0, len(self.windows), rows)
        ]


def hand_made(windows: int = 11) -> HandMade:
    generator = np.random.default_rng(4)
    tokens = generator.integers(0, VOCAB_SIZE, size=(windows, SEQ_LENGTH + 1))
    documents = np.cumsum(generator.random(tokens.shape) < 0.15, axis=1, dtype=np.int32)
    documents -= documents[:, :1]
    documents[-1:, 7:] = -1
    return HandMade(tokens, documents, (np.arange(windows) % 3).astype(np.int32))
