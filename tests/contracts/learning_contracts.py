"""Contracts about what a part contributes: gradient, influence on the logits, finite numbers at any size."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from annotated_types import Ge
from contract_subject import (
    LENGTH,
    VOCAB,
    Subject,
    apart,
    build,
    logits,
    one_document,
    packed,
    randomised,
    run,
    tokens,
)
from promises import promise
from pydantic import BaseModel
from torch import Tensor, nn

from dreamlm.core.modules.ring import Ring
from dreamlm.core.modules.state import ModuleState
from dreamlm.core.nn.cache import KeyValueCache
from dreamlm.core.nn.decoder import DreamLM

MATTERS = 1e-3
"""A part that moves logits of size 1 by less does nothing."""


@promise(3, "gradient")
def every_parameter_learns(subject: Subject, training: bool) -> None:
    """One step of the subject's own objective reaches every parameter that is not declared frozen."""
    model = subject.random(training)
    ids = tokens(8, LENGTH + 1)
    losses = subject.losses(model, ids, torch.tensor([packed(17), packed(8, 9)] * 4))
    weights = subject.config.loss_weights
    assert losses.objectives.keys() == weights.keys(), f"losses {set(losses.objectives)}, weights {set(weights)}"
    subject.step_loss(losses).backward()
    frozen = _frozen(model)
    names = {name for name, _ in model.named_parameters()}
    assert frozen <= names, f"declared frozen, but no parameter: {frozen - names}"
    idle = {name for name, one in model.named_parameters() if one.grad is None or not one.grad.abs().sum() > 0}
    assert idle == frozen, f"without gradient: {sorted(idle - frozen)}; frozen, but with gradient: {frozen - idle}"


def _frozen(model: DreamLM) -> set[str]:
    cognition = {f"cognition.{index}.{name}" for index, module in enumerate(model.cognition) for name in module.frozen}
    return cognition | {name for name, one in model.named_parameters() if not one.requires_grad}


@promise(4, "it matters")
def it_matters(subject: Subject, training: bool) -> None:
    """Each part's weights and each state change the logits; without its modules a model is the baseline exactly.

    A head that stands beside the model changes the losses of its objective instead.
    """
    model = subject.random(training)
    ids = tokens(2)
    whole = logits(model, ids)
    for name, part in _parts(model):
        with _moved(part):
            assert apart(logits(model, ids), whole) > MATTERS, f"the weights of {name} do not change logits"
    _states_matter(model, ids)
    _mask_matters(model, ids)
    _blank_matters(model, ids)
    if subject.head is not None:
        _head_matters(subject, model)
    if subject.baseline is not None:
        plain = randomised(build(subject.baseline, 0).train(), 0)
        assert apart(logits(plain, ids), logits(subject.random(training=True), ids)) > MATTERS, "it changes nothing"
    if subject.config.modules:
        _baseline_is_exact(subject, training, ids)


def _parts(model: DreamLM) -> Iterator[tuple[str, nn.Module]]:
    parts = {"embedding": model.embedding, "positions": model.positions, "norm": model.norm, "head": model.head}
    for index, layer in enumerate(model.layers):
        parts |= {f"layers.{index}.{name}": part for name, part in layer.named_children()}
    parts |= {module.name: module for module in model.cognition}
    parts |= {name: part for name, part in model.vision.named_children() if name in ("encoder", "prefix")}
    return ((name, part) for name, part in parts.items() if any(True for _ in part.parameters()))


@contextmanager
def _moved(part: nn.Module) -> Iterator[None]:
    """With random numbers added to all weights of a part."""
    kept = [parameter.detach().clone() for parameter in part.parameters()]
    with torch.no_grad():
        for parameter in part.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    yield
    with torch.no_grad():
        for parameter, value in zip(part.parameters(), kept, strict=True):
            parameter.copy_(value)


def _head_matters(subject: Subject, model: DreamLM) -> None:
    ids = tokens(2, LENGTH + 1)
    with torch.no_grad():
        before = subject.step_loss(subject.losses(model, ids, one_document(ids)))
        with _moved(model.own_head):
            after = subject.step_loss(subject.losses(model, ids, one_document(ids)))
    assert apart(before, after) > MATTERS, "the weights of the head do not change losses"


def _mask_matters(model: DreamLM, ids: Tensor) -> None:
    if model.mask_vector is None:
        return
    masked = torch.cat([ids[:, :5], torch.full_like(ids[:, 5:], model.mask_id)], dim=1)
    before = logits(model, masked)
    with torch.no_grad():
        model.mask_vector.add_(1.0)
        after = logits(model, masked)
        model.mask_vector.sub_(1.0)
    assert apart(before, after) > MATTERS, "the vector of a hidden token does not change logits"
    assert torch.equal(before[:, :5], after[:, :5]), "the vector of a hidden token changes what comes before it"


def _blank_matters(model: DreamLM, ids: Tensor) -> None:
    if model.config.vision is None:
        return
    before = logits(model, ids)
    model.vision.look(False)
    blind = logits(model, ids)
    with torch.no_grad():
        model.vision.blank.add_(1.0)
        after = logits(model, ids)
        model.vision.blank.sub_(1.0)
    model.vision.look(True)
    assert apart(blind, before) > MATTERS, "what is to be seen does not change logits"
    assert apart(blind, after) > MATTERS, "the vector of a blank place does not change logits"


def _states_matter(model: DreamLM, ids: Tensor) -> None:
    with torch.no_grad():
        carry = run(model, ids[:, :9])[1]
    after = logits(model, ids[:, 9:], None, carry)
    shown = {module.name: module.shown for module in model.cognition}
    for name, state in carry.states.items():
        for key, changed in _changed(state):
            moved = logits(model, ids[:, 9:], None, replace(carry, states={**carry.states, name: changed}))
            if key in shown.get(name, ()):
                assert torch.equal(moved, after), f"{key} in the state of {name} is only shown, but changes logits"
            else:
                assert apart(moved, after) > MATTERS, f"{key} in the state of {name} does not change logits"


def _changed(state: KeyValueCache | ModuleState) -> Iterator[tuple[str, KeyValueCache | ModuleState]]:
    if isinstance(state, KeyValueCache):
        yield "the value", KeyValueCache.of(state.key, -state.value)
        return
    assert state.written, "two segments are complete, and nothing was written"
    for key, ring in state.stacks.items():
        noise = torch.randn(ring.ordered().shape, generator=torch.Generator().manual_seed(4))
        yield key, replace(state, stacks={**state.stacks, key: Ring.of(ring.ordered() + noise, ring.count_B)})
    for key, value in state.memory.items():
        if value.is_floating_point():
            noise = torch.randn(value.shape, generator=torch.Generator().manual_seed(4))
            yield key, replace(state, memory={**state.memory, key: value + noise})


def _baseline_is_exact(subject: Subject, training: bool, ids: Tensor) -> None:
    model = subject.fresh(training)
    without = subject.config.model_copy(update={"modules": ()})
    bare, plain = (build(one, 0).train(training) for one in (without, _unsegmented(without)))
    weights = model.state_dict()
    for name, value in bare.state_dict().items():
        assert torch.equal(weights[name], value), f"the trunk's {name} is another one without modules"
    assert torch.equal(logits(bare, ids), logits(plain, ids)), "segments alone change logits"
    first = ids[:, : subject.config.segment]
    assert torch.equal(logits(model, first), logits(bare, first)), "modules act before anything was written"


def _unsegmented(config: DreamLM.Config) -> DreamLM.Config:
    return config.model_copy(update={"segment_length": None})


@promise(9, "finite")
def finite(subject: Subject, training: bool) -> None:
    """Logits, losses and gradients are finite at the smallest sizes, of documents too."""
    documents = torch.tensor([packed(*[1] * 17), packed(17), [-1] * 17, [*packed(1, 15), -1], [-1, *packed(16)]])
    for what, config in degenerate(subject.config):
        small = replace(subject, config=config)
        model = small.random(training)
        ids = tokens(len(documents), config.seq_length + 1) % VOCAB
        own = documents[:, : config.seq_length + 1]
        losses = small.losses(model, ids, own)
        for name, loss in losses.objectives.items():
            assert torch.isfinite(loss), f"{what}: the loss {name} is not finite"
        small.step_loss(losses).backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is None or parameter.grad.isfinite().all(), f"{what}: gradient of {name}"
        assert logits(model, ids[:, :-1], own[:, :-1]).isfinite().all(), f"{what}: logits are not finite"


def degenerate(config: DreamLM.Config) -> Iterator[tuple[str, DreamLM.Config]]:
    """With fields at their lower bound: those of the trunk, of its parts, of the window, and all at once."""
    lengths = {"seq_length": config.seq_length, "segment_length": config.segment_length}
    anywhere = tuple(one.model_copy(update={"after": None}) for one in config.modules)
    trunk = {**_lower_bounds(config), **lengths, "modules": anywhere}
    parts = {
        "positions": _smallest(config.positions),
        "feed_forward": _smallest(config.feed_forward),
        "modules": tuple(_smallest(one) for one in anywhere),
        "stage": config.stage and _smallest(config.stage),
    }
    short: dict[str, Any] = {"segment_length": 2} if config.modules else {}
    if config.vision is not None:
        short["vision"] = _smallest(config.vision)
    if config.diffusion is not None:
        short["diffusion"] = _smallest(config.diffusion)
    shortest = {"seq_length": 4 if config.modules else 2, **short}
    changes = {
        "smallest trunk": trunk,
        "smallest parts": {**parts, **short},
        "shortest window": shortest,
        "all smallest": {**trunk, **parts, **shortest},
    }
    for what, change in changes.items():
        yield what, type(config).model_validate({**dict(config), **change})


def _smallest(part: BaseModel) -> BaseModel:
    within = {name: _smallest(value) for name, value in dict(part).items() if isinstance(value, BaseModel)}
    return part.model_copy(update={**_lower_bounds(part), **within})


def _lower_bounds(part: BaseModel) -> Mapping[str, float]:
    fields = type(part).model_fields
    return {name: rule.ge for name in fields for rule in fields[name].metadata if isinstance(rule, Ge)}
