"""Weights and optimizer state of a DeepSpeed engine as full tensors by name, and back, at any world size.

DeepSpeed flattens the parameters of each group into one vector and gives every rank a piece, the last one padded. Its
own snapshots are pickled files of such pieces; ours are whole tensors, so that any backend can go on from them.

Written against deepspeed 0.19.8: the names of its inner parts appear in this file, in `zero_fetching.py` and in
`zero.py`, nowhere else.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from deepspeed.runtime.zero import GatheredParameters
from torch import Tensor, nn

from dreamlm.core.errors import ResumeMismatch
from dreamlm.core.training.backend.zero_pieces import MOMENTS, Piece, PiecewiseAdamW

Named = Sequence[tuple[str, nn.Parameter]]


def gather_weights(engine: Any, parameters: Named, keep: bool) -> dict[str, Tensor]:
    """Full fp32 weights on the CPU where `keep`, otherwise nothing. Collective; one tensor at a time."""
    weights = {}
    for name, parameter in parameters:
        with GatheredParameters([parameter]):
            if keep:
                weights[name] = parameter.detach().cpu().clone()
    return weights


def restore_weights(engine: Any, parameters: Named, weights: Mapping[str, Tensor]) -> None:
    """Collective. Raises: ResumeMismatch when a weight is missing or has another shape."""
    for name, parameter in parameters:
        shape = _shape(parameter)
        if name not in weights or weights[name].shape != shape:
            found = f"has shape {tuple(weights[name].shape)}" if name in weights else "is missing"
            raise ResumeMismatch(f"the weight {name} {found} in the snapshot; the model's has shape {tuple(shape)}")
    for name, parameter in parameters:
        with GatheredParameters([parameter], modifier_rank=0), torch.no_grad():
            parameter.copy_(weights[name])
    if engine.zero_optimization_stage() > 0:
        engine.optimizer.refresh_fp32_params()


def gather_optimizer(optimizer: PiecewiseAdamW, parameters: Named, keep: bool) -> dict[str, Tensor]:
    """Adam's state as `parameter/state` on the CPU where `keep`, of parameters that were ever updated. Collective."""
    gathered: dict[str, Tensor] = {}
    for name, parameter in parameters:
        if not (state := optimizer.state.get(parameter)):
            continue
        piece = optimizer.pieces[parameter]
        entries = {"step": state["step"]}
        entries |= {key: piece.gather(state[key], _shape(parameter)) for key in MOMENTS}
        if keep:
            gathered |= {f"{name}/{key}": value.detach().cpu().clone() for key, value in entries.items()}
    return gathered


def restore_optimizer(optimizer: PiecewiseAdamW, parameters: Named, state: Mapping[str, Tensor]) -> None:
    """Take over what `gather_optimizer` gave; nothing in it means a fresh optimizer.

    Raises: ResumeMismatch when it is no Adam state of these parameters.
    """
    named = dict(parameters)
    found = {key.rpartition("/")[0] for key in state}
    wanted = {f"{name}/{key}" for name in found & named.keys() for key in ("step", *MOMENTS)}
    if wanted != set(state):
        odd = sorted(wanted.symmetric_difference(state))
        raise ResumeMismatch(
            f"the snapshot's optimizer state does not fit AdamW on this model: {', '.join(odd[:4])}",
            hint="DeepSpeed continues runs that were trained with adamw; train.backend=torch continues the others",
        )
    optimizer.state.clear()
    for name in (name for name in named if name in found):
        piece = optimizer.pieces[named[name]]
        optimizer.state[named[name]] = {
            "step": state[f"{name}/step"].to(piece.vector.device, torch.float32, copy=True),
            **{key: piece.cut(state[f"{name}/{key}"]) for key in MOMENTS},
        }


def find_pieces(engine: Any) -> dict[nn.Parameter, Piece]:
    """What this rank holds of each parameter that is not frozen, at stages 1 to 3."""
    optimizer = engine.optimizer
    if engine.zero_optimization_stage() < 3:
        return {
            parameter: _piece_of_run(parameter, vector)
            for group, vector in zip(optimizer.bit16_groups, optimizer.single_partition_of_fp32_groups, strict=True)
            for parameter in group
        }
    pieces = {}
    for group, vector in zip(optimizer.fp16_groups, optimizer.fp32_partitioned_groups_flat, strict=True):
        place = 0
        for parameter in group:
            # Equal shares, the last ones padded behind the parameter's end.
            share, numbers = parameter.partition_numel(), parameter.ds_numel
            begin = min(share * engine.global_rank, numbers)
            pieces[parameter] = Piece(vector, place, begin, min(share, numbers - begin))
            place += share
    return pieces


def clear_gradients(engine: Any) -> None:
    """Before a step's first backward pass: stage 3 would go on from the gradients that stand from steps before.

    DeepSpeed writes over them where the first pass of a step brings a new one, and there alone: a weight that it does
    not reach would be updated by an old gradient again.
    """
    if engine.zero_optimization_stage() == 3:
        for gradient in engine.optimizer._DeepSpeedZeroOptimizer_Stage3__param_id_to_grad_partition.values():
            gradient.zero_()


def forget_gradients(engine: Any) -> None:
    """Drop the gradients of finished backward passes, accumulated ones included, as an overflow would."""
    optimizer, stage = engine.optimizer, engine.zero_optimization_stage()
    optimizer.zero_grad(set_to_none=True)
    if stage == 3:
        optimizer.averaged_gradients = {}
    elif stage > 0:
        optimizer._release_preflattened_grad_buffers()
        for group in optimizer.averaged_gradients:
            optimizer.averaged_gradients[group] = None
            optimizer.all_grad_tensors[group] = None


def _piece_of_run(parameter: Any, vector: Tensor) -> Piece:
    """At stages 1 and 2 a rank holds a run of the numbers of all parameters: parts of two at most, and whole ones."""
    if parameter._hp_mapping is None:
        return Piece(vector, 0, 0, 0)
    inside, outside = parameter._hp_mapping.lp_fragment_address, parameter._hp_mapping.hp_fragment_address
    return Piece(vector, outside.start, inside.start, inside.numel)


def _shape(parameter: nn.Parameter) -> torch.Size:
    shape: torch.Size = getattr(parameter, "ds_shape", parameter.shape)
    return shape
