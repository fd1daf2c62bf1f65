"""Untrained models whose tokens heed their thoughts, and documents by hand for them."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from dreamlm.core.evaluation.by_document import ByDocument
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.pictures import Shown

VOCAB, SEGMENT, WINDOW, STACK, END, PADDING = 31, 4, 16, 3, 0, 30
TARGETS = (16, 5, 37, 3, 12, 8, 20, 11)
"""Of the documents: shorter than a segment, of whole ones, and longer than a window."""
MODULE = "thought_stack"


def thinking_model(kind: str = "causal") -> DreamLM:
    module = {"type": MODULE, "thought_dims": (2, 3, 2), "stack_size": STACK}
    values = {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "seq_length": WINDOW, "segment_length": SEGMENT}
    trunk = {"diffusion": {"block_size": SEGMENT // 2}} if kind == "diffusion" else {}
    torch.manual_seed(0)
    model = DreamLM.Config.model_validate({**values, **trunk, "modules": [module]}).build(VOCAB).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(2 * torch.randn_like(parameter) / math.sqrt(parameter.shape[-1]))
    return model


def documents(*targets: int) -> ByDocument:
    """Documents with so many targets, of one source."""
    lengths = np.array(targets or TARGETS)
    tokens = np.random.default_rng(3).integers(1, PADDING, lengths.sum() + 1)

    def fill(source: int, start: int, row: npt.NDArray[np.int64]) -> Sequence[Shown]:
        row[:] = tokens[start : start + len(row)]
        return ()

    return ByDocument(
        np.zeros(len(lengths), np.int64),
        np.cumsum(lengths) - lengths,
        lengths,
        fill,
        seq_length=WINDOW,
        padding_id=PADDING,
        utf8_bytes=int(3 * lengths.sum()),
    )
