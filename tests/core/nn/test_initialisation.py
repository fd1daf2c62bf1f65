"""Fresh weights are drawn as docs/decisions/initialisation.md says, at every width and depth."""

import math

import pytest
import torch

from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.nn.initialisation import initialise


@pytest.mark.parametrize("feed_forward", ["swiglu", "gelu", "relu2", "learnable", "moe"])
@pytest.mark.parametrize(("hidden_size", "num_layers"), [(64, 2), (128, 8)])
def test_every_matrix_has_the_deviation_of_its_kind(feed_forward: str, hidden_size: int, num_layers: int) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": hidden_size, "num_layers": num_layers, "num_heads": 2, "attention_gate": True}
    parts = {"feed_forward": feed_forward, "positions": "learned", "tie_embeddings": False}
    model = DreamLM.Config.model_validate({**sizes, **parts}).build(300)
    matrices = [(name, one) for name, one in model.named_parameters() if one.ndim == 2]
    writers = [name for name, _ in matrices if name.endswith((".output.weight", ".down.weight"))]
    assert len(writers) == num_layers * (9 if feed_forward == "moe" else 2)
    for name, one in matrices:
        gain = 0.4 if name.startswith("layers.") else 0.3
        expected = gain / math.sqrt(one.shape[1]) / (math.sqrt(2 * num_layers) if name in writers else 1)
        # The deviation of n draws strays from the true one by a share of 1 / sqrt(2 n).
        assert one.std().item() == pytest.approx(expected, rel=5 / math.sqrt(2 * one.numel())), name
        assert abs(one.mean().item()) < 5 * expected / math.sqrt(one.numel()), name


def test_writers_of_modules_and_whole_kernels_have_theirs() -> None:
    torch.manual_seed(0)
    part = torch.nn.ModuleDict({"residual": torch.nn.Linear(64, 64), "eyes": torch.nn.Conv2d(3, 64, 8)})
    initialise(part, num_layers=8)
    for name, expected in (("residual", 0.4 / 8 / 4), ("eyes", 0.4 / math.sqrt(3 * 8 * 8))):
        assert part[name].weight.std().item() == pytest.approx(expected, rel=0.05), name
