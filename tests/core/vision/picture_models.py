"""Small models that see, and batches in which they see something."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.nn.vision.view import Sight

VOCAB, PLACES, SIZE = 31, 3, 28
ENCODERS: Mapping[str, Mapping[str, Any]] = {
    "lite": {"type": "lite", "width": 16, "image_size": 24},
    "vit": {"type": "vit", "width": 16, "num_layers": 1, "num_heads": 2, "image_size": SIZE},
}


def seeing_model(encoder: str = "vit", feed_forward: Any = "swiglu", **vision: Any) -> DreamLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "seq_length": 16, "feed_forward": feed_forward}
    eyes = {**ENCODERS[encoder], "num_prefix_tokens": PLACES, **vision}
    return DreamLM.Config.model_validate({**sizes, "vision": eyes}).build(VOCAB).eval()


def pixels(model: DreamLM, count: int, seed: int = 3) -> Tensor:
    size = model.config.image_form.size
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)


def batch_of(*rows: list[int | str]) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, documents and pictures of rows: "P" begins a picture's document, "D" one without, "-" is padding."""
    tokens, documents, of, pictures = [], [], [], 0
    for row in rows:
        ids, own, sees, number = [], [], [], -1
        for one in row:
            number += one in ("P", "D")
            if one == "P":
                ids += [0, *(-1 - place for place in range(PLACES))]
                sees += [-1, *[pictures] * PLACES]
                pictures += 1
            else:
                ids.append(0 if isinstance(one, str) else one)
                sees.append(-1)
            own += [-1 if one == "-" else max(0, number)] * (len(ids) - len(own))
        tokens, documents, of = [*tokens, ids], [*documents, own], [*of, sees]
    return torch.tensor(tokens), torch.tensor(documents), torch.tensor(of)


def logits(model: DreamLM, tokens: Tensor, documents: Tensor, sight: Sight | None) -> Tensor:
    with torch.no_grad():
        signal = model(tokens, documents, model.start(len(tokens)), True, model.look(sight))
        return model.logits(signal.hidden)
