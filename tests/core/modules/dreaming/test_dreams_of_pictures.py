"""Pictures come into the space of the roles of dreams through their places, which a segment pools like its words."""

import torch
from small_dreams import SMALL, TRUNK

from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.nn.vision.view import Sight


def test_what_a_picture_shows_is_in_what_its_segment_dreams() -> None:
    torch.manual_seed(0)
    vision = {"type": "lite", "image_size": 16, "num_prefix_tokens": 2, "width": 16}
    model = DreamLM.Config.model_validate({**TRUNK, "vision": vision, "modules": [SMALL]}).build(23).eval()
    tokens = torch.tensor([[0, 5, -1, -2]])  # words that come before a picture know nothing of it
    of, documents = torch.where(tokens < 0, 0, -1), torch.zeros_like(tokens)
    pictures = torch.randint(0, 256, (2, 1, 3, 16, 16), dtype=torch.uint8)
    with torch.no_grad():
        views = [model.look(Sight(one, of)) for one in pictures]
        signals = [model(tokens, documents, model.start(1), view=view) for view in views]
    assert torch.equal(signals[0].hidden[:, :2], signals[1].hidden[:, :2])
    first, second = (signal.carry.states["dreaming"].memory for signal in signals)
    for key in ("roles", "dreams", "reasoning"):
        assert (first[key] - second[key]).abs().max() > 1e-3, key
