"""Models that see, and micro-batches in which they see something: scenes of divided_scenes.py."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from dreamlm.core.types import Batch, Pictures

PLACES, SIZE = 2, 14
RESTING_STEP = 3
EYES = {"type": "vit", "image_size": SIZE, "width": 8, "num_layers": 1, "num_heads": 2, "num_prefix_tokens": PLACES}
QUIET_EYES = {**EYES, "token_mask_prob": 0.0, "embedding_dropout": 0.0}
TOWER = {
    **{"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
    **{"image_size": SIZE, "patch_size": 7, "hidden_act": "gelu", "layer_norm_eps": 1e-5},
}
CLIP = {
    **{"type": "clip", "path": "read already", "architecture": TOWER},
    **{"image_size": SIZE, "num_prefix_tokens": PLACES},
}
SEEING: Mapping[str, dict[str, Any]] = {
    "eyes": {"vision": EYES},
    "clip": {"vision": CLIP},
    "thawed-clip": {"vision": {**CLIP, "frozen": False}},
    "rare-eyes": {"vision": EYES},
    # From stage 1 on a picture is added for the other ranks, which moves what is drawn behind it.
    "quiet-eyes": {"vision": QUIET_EYES, "dropout": 0.0},
}
RARELY = ("rare-eyes", "quiet-eyes")
"""Models that get few pictures: the second rank none, and in one step nobody any."""


def shown(model: str, batch: Batch, step: int, number: int) -> Batch:
    """The rows as a model of that name gets them."""
    blind = number % 2 or step == RESTING_STEP
    if model not in SEEING or (model in RARELY and blind):
        return batch
    return illustrated(batch, seed=100 * step + number)


def illustrated(batch: Batch, seed: int) -> Batch:
    """The rows with a picture each behind their first token; what else is in their first document is its caption."""
    tokens, documents, of = batch.tokens.copy(), batch.documents.copy(), np.full(batch.tokens.shape, -1, np.int32)
    rows, places = len(tokens), slice(1, 1 + PLACES)
    tokens[:, places] = -1 - np.arange(PLACES)
    documents[:, : places.stop] = 0
    of[:, places] = np.arange(rows)[:, None]
    pixels = np.random.default_rng(seed).integers(0, 256, (rows, 3, SIZE, SIZE), dtype=np.uint8)
    return replace(batch, tokens=tokens, documents=documents, pictures=Pictures(pixels, of))
