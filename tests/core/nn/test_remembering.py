"""Reading for the carry alone: the last layer leaves out what nobody looks at, and nothing else changes."""

from typing import Any

import pytest
import torch
from torch import Tensor

from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.nn.signal import Carry, Signal
from dreamlm.core.objectives.diffusion import DiffusionObjective

VOCAB, FILLER = 32, 31
DOCUMENTS = torch.tensor([[0] * 17, [0] * 6 + [1] * 11])
SHAPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "experts": {"feed_forward": {"type": "moe", "num_experts": 2, "top_k": 1}},
    "module in the middle": {"modules": ["segment_summary"], "segment_length": 4},
    "module at the end": {"modules": [{"type": "segment_summary", "after": 2}], "segment_length": 4},
}


def model(shape: str, diffusion: bool = True) -> DreamLM:
    torch.manual_seed(0)
    blocks = {"diffusion": {"block_size": 4}} if diffusion else {}
    sizes = {"hidden_size": 32, "num_layers": 3, "num_heads": 4, "seq_length": 16}
    return DreamLM.Config.model_validate({**sizes, **blocks, **SHAPES[shape]}).build(VOCAB)


def window() -> Tensor:
    return torch.randint(1, FILLER, (2, 17), generator=torch.Generator().manual_seed(1))


def losses_and_gradients(built: DreamLM) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    built.zero_grad()
    torch.manual_seed(2)
    objectives = dict(DiffusionObjective(built, 0.1, FILLER)(window(), DOCUMENTS, True).objectives)
    torch.stack([*objectives.values()]).sum().backward()
    return objectives, {name: one.grad.clone() for name, one in built.named_parameters() if one.grad is not None}


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_losses_and_gradients_are_the_same_bits_as_with_the_whole_last_layer(
    shape: str, checkpointing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = model(shape)
    built.checkpoint_activations(checkpointing)
    left_out, whole_stack = losses_and_gradients(built), DreamLM.stack
    monkeypatch.setattr(DreamLM, "stack", lambda model, vectors: whole_stack(model))
    whole = losses_and_gradients(built)
    for ours, theirs in zip(left_out, whole, strict=True):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_carry_is_the_one_that_a_forward_leaves(shape: str) -> None:
    built, tokens, documents = model(shape).eval(), window(), DOCUMENTS
    with torch.no_grad():
        *_, read = built.segments(tokens, documents, built.start(2), vectors=False)
        whole: Signal = built(tokens, documents, built.start(2))
        after = [continued(built, carry) for carry in (read.carry, whole.carry)]
    assert torch.equal(*after)


def continued(built: DreamLM, carry: Carry) -> Tensor:
    """What the model makes of one more token."""
    token = torch.full((2, 1), 5)
    hidden: Tensor = built(token, DOCUMENTS[:, -1:], carry).hidden
    return hidden


@pytest.mark.parametrize(("shape", "calls"), [("plain", 1), ("experts", 2), ("module at the end", 2)])
def test_only_what_nobody_needs_is_left_out(shape: str, calls: int) -> None:
    """A feed-forward with a loss is passed by both paths, and so is a layer that a module sits behind."""
    built, seen = model(shape), list[int]()
    built.layers[-1].feed_forward.register_forward_hook(lambda *arguments: seen.append(1))
    losses_and_gradients(built)
    segments = 4 if shape == "module at the end" else 1
    assert len(seen) == 1 + (calls - 1) * segments
