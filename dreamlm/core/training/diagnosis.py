"""Finding the cause of a loss or gradient that is not finite."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dreamlm.core.heads.lm import LanguageModelHead
from dreamlm.core.nn.signal import Signal
from dreamlm.core.objectives.objective import Losses
from dreamlm.core.training.backend.backend import Backend, WindowBatch
from dreamlm.core.types import Stream


def name_cause(backend: Backend, stream: Stream, micro_batches: Sequence[WindowBatch]) -> str:
    """The first layer whose output is not finite and the documents it was reading, in a sentence.

    Runs the objective on the micro-batches again with a watch on every layer. Collective, inside `backend.whole()`.
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
    learning = [(name, weight) for name, weight in backend.model.named_parameters() if weight.requires_grad]
    names, weights = zip(*reversed(learning), strict=True)
    losses = _losses(backend, micro)
    gradients = torch.autograd.grad(sum(losses.objectives.values()) / losses.tokens, weights, allow_unused=True)
    found = (
        name for name, grad in zip(names, gradients, strict=True) if grad is not None and not grad.isfinite().all()
    )
    return next(found, "")


def _first_bad_layer(backend: Backend, micro: WindowBatch) -> tuple[str, list[int]]:
    """Its name, or that of a loss behind it, and the rows that it was reading; both empty when all is finite."""
    found: list[tuple[str, list[int]]] = []

    def watch(name: str) -> Callable[[nn.Module, Any, object], None]:
        def look(module: nn.Module, inputs: Any, output: object) -> None:
            if isinstance(module, LanguageModelHead):
                output = module.token_nll(*inputs[:2])
            first = output[0] if isinstance(output, tuple) else output
            values = first.hidden if isinstance(first, Signal) else first
            if isinstance(values, Tensor) and values.is_floating_point() and not found:
                bad = ~torch.isfinite(values)
                if bad.any():
                    found.append((name, _rows(bad, micro)))

        return look

    handles = [module.register_forward_hook(watch(name)) for name, module in backend.model.named_modules() if name]
    try:
        with torch.no_grad():
            losses = _losses(backend, micro)
    finally:
        for handle in handles:
            handle.remove()
    bad_losses = [name for name, loss in losses.objectives.items() if not loss.isfinite()]
    found += [(f"the loss {name}", _everywhere(micro)) for name in bad_losses]
    return found[0] if found else ("", [])


def _losses(backend: Backend, micro: WindowBatch) -> Losses:
    """As the step that failed computed them: by the objective it trains by, with what that drew."""
    torch.manual_seed(micro.seed)
    with backend.autocast():
        losses: Losses = backend.objective.forward(*micro.inputs(backend.device))
    return losses


def _rows(bad: Tensor, micro: WindowBatch) -> list[int]:
    """The rows of a micro-batch to which values belong that are laid out by rows or by tokens; else all of them."""
    rows = len(micro.batch.tokens)
    if bad.ndim == 0 or len(bad) not in (rows, rows * micro.length):
        return _everywhere(micro)
    return bad.reshape(rows, -1).any(dim=1).nonzero().flatten().tolist()


def _everywhere(micro: WindowBatch) -> list[int]:
    return [*range(len(micro.batch.tokens))]
