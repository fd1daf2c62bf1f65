"""Finding the cause of a loss or gradient that is not finite."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.nn.signal import Signal
from dreamlm.core.objectives.causal import CausalObjective
from dreamlm.core.training.backend.backend import Backend, WindowBatch, on_device
from dreamlm.core.types import Stream


def name_cause(backend: Backend, stream: Stream, micro_batches: Sequence[WindowBatch]) -> str:
    """The first layer whose output is not finite and the documents it was reading, in a sentence.

    Runs the micro-batches forward again with a watch on every layer. Collective, inside `backend.whole()`.
    """
    bad_weights = [name for name, p in backend.model.named_parameters() if not torch.isfinite(p).all()]
    if bad_weights:
        return f"the weights of {bad_weights[0]} are not finite"
    for look in (_on_the_way_forward, _on_the_way_back):
        if cause := backend.first(look(backend, stream, micro_batches)):
            return cause
    return "every layer's output is finite: the gradient overflowed on the way back"


def _on_the_way_forward(backend: Backend, stream: Stream, micro_batches: Sequence[WindowBatch]) -> str:
    for micro in micro_batches:
        layer, rows = _first_bad_layer(backend, micro)
        if layer:
            names = [name for row in rows[:3] for name in stream.describe(micro.batch.windows[row])]
            return f"the first output that is not finite is that of {layer}, reading {', '.join(names[:6])}"
    return ""


def _on_the_way_back(backend: Backend, stream: Stream, micro_batches: Sequence[WindowBatch]) -> str:
    if backend.world_size > 1:
        return ""  # DeepSpeed's gradient hooks allow no second backward pass beside its own
    for micro in micro_batches:
        if weight := _first_bad_gradient(backend, micro):
            names = [name for window in micro.batch.windows[:3] for name in stream.describe(window)]
            return (
                f"every layer's output is finite, but the gradient of {weight} is not, reading {', '.join(names[:6])}"
            )
    return ""


def _first_bad_gradient(backend: Backend, micro: WindowBatch) -> str:
    """The weight nearest to the loss whose gradient over this micro-batch alone is not finite, or nothing."""
    torch.manual_seed(micro.seed)
    names, weights = zip(*reversed(list(backend.model.named_parameters())), strict=True)
    with backend.autocast():
        losses = CausalObjective(backend.model, 0.0)(*on_device(micro.batch, backend.device))
    gradients = torch.autograd.grad(losses.objectives["token"] / losses.tokens, weights, allow_unused=True)
    found = (
        name for name, grad in zip(names, gradients, strict=True) if grad is not None and not grad.isfinite().all()
    )
    return next(found, "")


def _first_bad_layer(backend: Backend, micro: WindowBatch) -> tuple[str, list[int]]:
    found: list[tuple[str, list[int]]] = []

    def watch(name: str) -> Callable[[nn.Module, object, object], None]:
        def look(module: nn.Module, inputs: object, output: object) -> None:
            first = output[0] if isinstance(output, tuple) else output
            values = first.hidden if isinstance(first, Signal) else first
            if isinstance(values, Tensor) and values.is_floating_point() and not found:
                bad = ~torch.isfinite(values).flatten(1).all(dim=1) if values.ndim > 1 else ~torch.isfinite(values)
                if bad.any():
                    found.append((name, bad.nonzero().flatten().tolist()))

        return look

    handles = [
        module.register_forward_hook(watch(name))
        for name, module in backend.model.named_modules()
        if name and name != "head"
    ]
    try:
        torch.manual_seed(micro.seed)
        tokens, documents, boundaries = on_device(micro.batch, backend.device)
        with torch.no_grad(), backend.autocast():
            carry = backend.model.start(len(tokens), records=False)
            hidden_BTD = backend.model(tokens[:, :-1], documents[:, :-1], carry, boundaries).hidden
            if not found:
                found += _bad_head(backend.model, hidden_BTD, tokens, documents)
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else ("", [])


def _bad_head(model: DreamLM, hidden_BTD: Tensor, tokens: Tensor, documents: Tensor) -> list[tuple[str, list[int]]]:
    """The head and the rows whose loss is not finite although what the head read is; training calls no hook of it."""
    real_BT = (documents[:, 1:] >= 0) & (documents[:, :-1] >= 0)
    target_BT = torch.where(real_BT, tokens[:, 1:], -1)
    nll_BT = model.head.token_nll(hidden_BTD.flatten(0, 1), target_BT.flatten()).view(target_BT.shape)
    bad_B = ~torch.isfinite(nll_BT).all(dim=1)
    return [("head", bad_B.nonzero().flatten().tolist())] if bad_B.any() else []
