"""Contracts about what must come out the same: however it is cut, saved, repeated or recomputed."""

import tempfile
from pathlib import Path

import pytest
import torch
from contract_subject import (
    CLOSE,
    LENGTH,
    Subject,
    apart,
    draws_numbers,
    logits,
    packed,
    run,
    spans,
    tokens,
)
from promises import promise
from safetensors.torch import load_file, save_file
from torch import Tensor

from dreamlm.core.modules.state import ModuleState
from dreamlm.core.nn.carrying import load_carry, save_carry
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.nn.signal import Carry

DOCUMENTS = torch.tensor([packed(16), packed(6, 10), [-1] * 3 + packed(4, 9), packed(11) + [-1] * 5])
LEFT_PADDING = (0, 0, 3, 0)


@promise(5, "one pass")
def one_pass(subject: Subject, training: bool) -> None:
    """One pass over all tokens gives the logits and memories of any cut, token by token included."""
    model = subject.random(training)
    if training and draws_numbers(model):
        pytest.skip("random numbers are drawn for each pass: compared in eval mode")
    ids = tokens(4)
    begin = model.start(4, left_padding=LEFT_PADDING)
    whole, last = run(model, ids, DOCUMENTS, begin)
    real = DOCUMENTS >= 0
    for cuts in ([16], [1] * 16, [4] * 4, [5, 1, 7, 3], [15, 1]):
        parts, carry = [], begin
        with torch.no_grad():
            for span in spans(cuts):
                part, carry = run(model, ids[:, span], DOCUMENTS[:, span], carry)
                parts.append(part)
        assert apart(torch.cat(parts, dim=1)[real], whole[real]) <= CLOSE, f"other logits when cut into {cuts}"
        for name, memory in _memories(last).items():
            assert apart(memory, _memories(carry)[name]) <= CLOSE, f"another {name} when cut into {cuts}"
    _promised(model, ids, whole)


def _promised(model: DreamLM, ids: Tensor, whole: Tensor) -> None:
    """Rows that go on with one document without padding may skip the mask, whatever came before."""
    one = logits(model, ids[:1], boundaries=False)
    assert apart(one, whole[:1]) <= CLOSE, "other logits without the mask that one document does not need"
    with torch.no_grad():
        carry = run(model, ids[:3, :11], DOCUMENTS[:3, :11], model.start(3, left_padding=LEFT_PADDING[:3]))[1]
    for span in (slice(11, 12), slice(11, 16)):
        rest = logits(model, ids[:3, span], DOCUMENTS[:3, span], carry, boundaries=False)
        assert apart(rest, whole[:3, span]) <= CLOSE, "documents before the carry are seen behind it"


def _memories(carry: Carry) -> dict[str, Tensor]:
    states = {name: state for name, state in carry.states.items() if isinstance(state, ModuleState)}
    memories = {f"{name}.{key}": value.float() for name, state in states.items() for key, value in state.memory.items()}
    for name, state in states.items():
        for key, ring in state.stacks.items():
            there_BM = torch.arange(ring.size, 0, -1) <= ring.count_B[:, None]
            newest_BM = ring.ordered()
            memories[f"{name}.{key}"] = newest_BM * there_BM.view(*there_BM.shape, *[1] * (newest_BM.ndim - 2))
            memories[f"{name}.{key}.count"] = ring.count_B.float()
    return memories


@promise(7, "save and load")
def survives_saving(subject: Subject, training: bool) -> None:
    """Weights, and a carry at any token, go through a file to another model without changing a bit of its logits."""
    model, ids = subject.random(training), tokens(4)
    loaded = subject.fresh(training, seed=1)
    with tempfile.TemporaryDirectory() as folder:
        weights, file = Path(folder) / "weights.safetensors", Path(folder) / "carry.safetensors"
        save_file({name: one.detach() for name, one in model.named_parameters()}, weights)
        _restore(loaded, load_file(weights))
        assert torch.equal(logits(model, ids, DOCUMENTS), logits(loaded, ids, DOCUMENTS)), (
            "loaded weights: other logits"
        )
        for cut in (1, 4, 9):
            with torch.no_grad():
                carry = run(model, ids[:, :cut], DOCUMENTS[:, :cut], model.start(4, left_padding=LEFT_PADDING))[1]
            save_carry(carry, file)
            expected = logits(model, ids[:, cut:], DOCUMENTS[:, cut:], carry)
            found = logits(loaded, ids[:, cut:], DOCUMENTS[:, cut:], load_carry(loaded, file))
            assert torch.equal(expected, found), f"a carry loaded at {cut}: other logits"


@torch.no_grad()
def _restore(model: DreamLM, weights: dict[str, Tensor]) -> None:
    for name, parameter in model.named_parameters():
        parameter.copy_(weights[name])


@promise(8, "same seed")
def same_seed(subject: Subject, training: bool) -> None:
    """The same seed gives the same weights, loss and gradients, however often; in eval mode any seed does."""
    first, second = subject.fresh(training), subject.fresh(training)
    for (name, one), (_, two) in zip(first.state_dict().items(), second.state_dict().items(), strict=True):
        assert torch.equal(one, two), f"{name} is drawn differently"
    expected = _step(subject, first)
    for model in (first, second):
        for name, value in _step(subject, model).items():
            assert torch.equal(value, expected[name]), f"{name} is not the same again"
    if not training:
        assert not draws_numbers(first), "eval mode draws random numbers"


@promise(10, "recomputation")
def recomputation(subject: Subject, training: bool) -> None:
    """Activation checkpointing changes no bit of losses, gradients and states, in two steps after each other."""
    plain, checkpointed = subject.random(training), subject.random(training)
    checkpointed.checkpoint_activations(True)
    for step in (1, 2):
        expected, found = _step(subject, plain), _step(subject, checkpointed)
        for name, value in expected.items():
            assert torch.equal(value, found[name]), f"{name} of step {step} is another one under recomputation"
    ids = tokens(4)
    expected_logits, expected_carry = run(plain, ids, DOCUMENTS)
    found_logits, found_carry = run(checkpointed, ids, DOCUMENTS)
    found_logits.sum().backward()
    assert torch.equal(expected_logits, found_logits), "other logits under recomputation"
    for name, memory in _memories(expected_carry).items():
        assert torch.equal(memory, _memories(found_carry)[name]), f"another {name} under recomputation"


def _step(subject: Subject, model: DreamLM) -> dict[str, Tensor]:
    """Losses, gradients and buffers of a step, by name."""
    ids = tokens(4, LENGTH + 1, seed=2)
    documents = torch.tensor([packed(17), packed(6, 11), packed(3, 9, 5), packed(12) + [-1] * 5])
    losses = subject.losses(model, ids, documents)
    model.zero_grad()
    subject.step_loss(losses).backward()
    gradients = {f"the gradient of {name}": one.grad for name, one in model.named_parameters() if one.grad is not None}
    buffers = {f"the buffer {name}": one.clone() for name, one in model.named_buffers()}
    return {f"the loss {name}": one.detach() for name, one in losses.objectives.items()} | gradients | buffers
