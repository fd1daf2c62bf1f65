"""When DeepSpeed's stage 3 fetches the weights that it has divided among the ranks, and when it lets go of them.

Its hooks fetch a layer's own weights before the layer runs, forward and backward, and release them afterwards. They
see the backward pass by the tensors that go in and come out, and that fails in two places, which are mended here:

1. What is given and returned as a `Signal` shows them no tensor, so a module that has weights beside its layers would
   meet their gradients without the weights. Such weights are fetched for the whole of both passes.
2. Recomputing a checkpointed layer within the backward pass would release the weights for which a part of that layer
   was just about to compute: in block diffusion the gradient of keys and values comes before that of the layer's
   output. What was recomputed keeps its weights until its own backward pass has used them.

Written against deepspeed 0.19.8.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from deepspeed.runtime.zero import GatheredParameters, register_external_parameter
from torch import nn


def mend_fetching(engine: Any) -> None:
    """Does nothing below stage 3."""
    if engine.zero_optimization_stage() < 3:
        return
    for parameter in _beside_layers(engine.module):
        register_external_parameter(engine.module, parameter)
    offload = engine.optimizer.parameter_offload
    release = offload.post_sub_module_forward_function

    def release_unless_recomputed(layer: nn.Module) -> None:
        if torch._C._current_graph_task_id() == -1:  # no backward pass is running
            release(layer)

    offload.post_sub_module_forward_function = release_unless_recomputed


@contextmanager
def whole_weights(engine: Any) -> Iterator[None]:
    """Every rank holds every weight; forward passes inside involve no other rank. Collective to enter and to leave.

    At stage 3 DeepSpeed's hooks, which fetch and release the weights of each part as it runs, rest meanwhile.
    """
    if engine.zero_optimization_stage() < 3:
        yield
        return
    offload = engine.optimizer.parameter_offload
    with GatheredParameters(list(engine.module.parameters())):
        for hook in (*offload.forward_hooks, *offload.backward_hooks):
            hook.remove()
        offload.forward_hooks, offload.backward_hooks = [], []
        try:
            yield
        finally:
            offload._register_deepspeed_module(offload.module)


def _beside_layers(root: nn.Module) -> Iterator[nn.Parameter]:
    """The parameters that stand beside other modules; a module without parts is a layer, of tensors to tensors."""
    for module in root.modules():
        if next(module.children(), None) is not None:
            yield from module.parameters(recurse=False)
