"""Several learned queries of fresh weights find several things, everywhere where there are some.

Weights as a model draws them: on weights drawn larger nothing here could be seen.
"""

from collections.abc import Callable

import pytest
import torch
from naive_attention import found_by_queries
from torch import Tensor
from torch.nn import functional as F

from dreamlm.core.modules.dreaming.dreaming import Dreaming
from dreamlm.core.modules.segment_summary import SegmentSummary
from dreamlm.core.modules.thought_stack import ThoughtStack
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.nn.initialisation import initialise
from dreamlm.core.nn.pooling import LearnedQueries

SIZE, SEGMENT, ROWS = 64, 32, 5


def fresh(module: dict[str, object] | None = None, **settings: object) -> DreamLM:
    trunk = {"hidden_size": SIZE, "num_layers": 2, "num_heads": 4, "seq_length": 64, "segment_length": SEGMENT}
    values = {**trunk, **settings, "modules": [module] if module else []}
    torch.manual_seed(0)
    return DreamLM.Config.model_validate(values).build(50).eval()


def segments() -> tuple[Tensor, Tensor]:
    """Vectors that have a part in common, as those of a model have."""
    torch.manual_seed(1)
    return torch.randn(ROWS, SEGMENT, SIZE) + torch.randn(SIZE), torch.ones(ROWS, SEGMENT, dtype=torch.bool)


def roles() -> Tensor:
    module = fresh({"type": "dreaming"}).cognition[0]
    assert isinstance(module, Dreaming)
    found: Tensor = module.pooling(*segments())
    return found


def thought() -> Tensor:
    module = fresh({"type": "thought_stack"}).cognition[0]
    assert isinstance(module, ThoughtStack)
    dims, size = module.config.thought_dims, module.config.stack_size
    memory = {"thoughts": torch.zeros(ROWS, size, *dims), "thoughts.count": torch.zeros(ROWS, dtype=torch.int32)}
    return module.write(memory, *segments()).pushed["thoughts"].flatten(2)


def summary() -> Tensor:
    module = fresh({"type": "segment_summary"}).cognition[0]
    assert isinstance(module, SegmentSummary)
    memory = module.blank(ROWS, torch.device("cpu"))
    return module.write(memory, *segments()).memory["summary"]


def seeing() -> DreamLM:
    return fresh(vision={"type": "lite", "image_size": 32, "num_prefix_tokens": 4, "width": 32})


def picture_roles() -> Tensor:
    vectors, _ = segments()
    contrast = seeing().vision.contrast
    found: Tensor = contrast.of_pictures(vectors)
    return found


def places() -> Tensor:
    prefix = seeing().vision.prefix
    features = torch.randn(ROWS, 20, prefix.key.weight.shape[1], generator=torch.Generator().manual_seed(1))
    found: Tensor = prefix.places(prefix.key(features), prefix.value(features))
    return found


# The roles of a picture share the mean of its vectors.
@pytest.mark.parametrize(
    ("found", "most"), [(roles, 0.75), (thought, 0.75), (summary, 0.75), (places, 0.75), (picture_roles, 0.9)]
)
def test_what_one_query_finds_is_not_what_another_finds(found: Callable[[], Tensor], most: float) -> None:
    with torch.no_grad():
        found_RQC = found()
    own_RQC = F.normalize(found_RQC - found_RQC.mean(dim=0), dim=2)  # what all rows have in common says nothing
    alike_RQQ = own_RQC @ own_RQC.transpose(1, 2)
    others = ~torch.eye(alike_RQQ.shape[1], dtype=torch.bool)
    assert alike_RQQ[:, others].mean() < most


def test_the_order_of_a_segment_moves_its_roles() -> None:
    module = fresh({"type": "dreaming"}).cognition[0]
    assert isinstance(module, Dreaming)
    vectors, own = segments()
    with torch.no_grad():
        there, back = module.pooling(vectors, own), module.pooling(vectors.flip(1), own)
    moved = (there - back).norm(dim=2) / (there - there.mean(dim=0)).norm(dim=2)
    assert moved.min() > 0.2


@pytest.mark.parametrize("num_heads", [1, 4])
@pytest.mark.parametrize("are_moved", [True, False])
def test_queries_agree_with_attention_of_one_query_after_the_other(num_heads: int, are_moved: bool) -> None:
    torch.manual_seed(2)
    pooling = LearnedQueries(3, 8, num_heads, 1e-5)
    initialise(pooling, 1)
    torch.nn.init.normal_(pooling.gain)
    keys, values = torch.randn(2, 2, 5, 8)
    moved = torch.randn(2, 3, 8) if are_moved else None
    seen = torch.tensor([[True] * 5, [True, False, True, True, False]])
    found = pooling(keys, values, seen[:, None], *([] if moved is None else [moved]))
    for row in range(2):
        own = seen[row].nonzero()[:, 0]
        given = (list(keys[row, own]), list(values[row, own]), None if moved is None else moved[row])
        torch.testing.assert_close(found[row], torch.stack(found_by_queries(pooling, *given)), atol=1e-5, rtol=1e-4)
