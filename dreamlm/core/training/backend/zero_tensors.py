"""Weights and optimizer state of a DeepSpeed engine as full tensors by name, and back, at any world size.

DeepSpeed flattens the parameters of each group into one vector and gives every rank a piece, the last one padded. Its
own snapshots are pickled files of such pieces; ours are whole tensors, so that any backend can go on from them.

Written against deepspeed 0.19.8: the names of its inner parts appear in this file and in `zero.py`, nowhere else.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from deepspeed.runtime.zero import GatheredParameters
from deepspeed.utils import safe_get_full_optimizer_state, safe_set_full_optimizer_state, safe_set_local_optimizer_state
from torch import Tensor, nn

from dreamlm.core.errors import ResumeMismatch

Named = Sequence[tuple[str, nn.Parameter]]
MOMENTS = ("exp_avg", "exp_avg_sq")


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
        shape = getattr(parameter, "ds_shape", parameter.shape)
        if name not in weights or weights[name].shape != shape:
            found = f"has shape {tuple(weights[name].shape)}" if name in weights else "is missing"
            raise ResumeMismatch(f"the weight {name} {found} in the snapshot; the model's has shape {tuple(shape)}")
    for name, parameter in parameters:
        with GatheredParameters([parameter], modifier_rank=0), torch.no_grad():
            parameter.copy_(weights[name])
    if engine.zero_optimization_stage() > 0:
        engine.optimizer.refresh_fp32_params()


def gather_optimizer(engine: Any, parameters: Named, keep: bool) -> dict[str, Tensor]:
    """Adam's state as `parameter/state` on the CPU where `keep`; empty before the first step. Collective."""
    states = _torch_optimizer(engine).state
    shards = _shards(engine)
    if not all(states.get(shard) for shard in shards.values()):
        return {}
    _link(engine)
    gathered: dict[str, Tensor] = {}
    for name, parameter in parameters:
        entries = {"step": states[shards[parameter]]["step"]}
        entries |= {key: _full_moment(engine, parameter, key) for key in MOMENTS}
        if keep:
            gathered |= {f"{name}/{key}": value.detach().cpu().clone() for key, value in entries.items()}
    return gathered


def restore_optimizer(engine: Any, parameters: Named, state: Mapping[str, Tensor]) -> None:
    """Take over what `gather_optimizer` gave; nothing in it means a fresh optimizer. Collective.

    Raises: ResumeMismatch when it is no Adam state of exactly these parameters.
    """
    wanted = {f"{name}/{key}" for name, _ in parameters for key in ("step", *MOMENTS)}
    torch_optimizer, shards = _torch_optimizer(engine), _shards(engine)
    if not state:
        torch_optimizer.state.clear()
        return
    if wanted != set(state):
        odd = sorted(wanted.symmetric_difference(state))
        raise ResumeMismatch(
            f"the snapshot's optimizer state does not fit AdamW on this model: {', '.join(odd[:4])}",
            hint="DeepSpeed continues runs that were trained with adamw; train.backend=torch continues the others",
        )
    _check_steps(parameters, shards, state)
    for name, parameter in parameters:
        shard = shards[parameter]
        if not torch_optimizer.state.get(shard):
            torch_optimizer.state[shard] = {key: torch.zeros_like(shard) for key in MOMENTS}
        torch_optimizer.state[shard]["step"] = state[f"{name}/step"].to(shard.device, torch.float32).clone()
    _link(engine)
    for name, parameter in parameters:
        for key in MOMENTS:
            _set_moment(engine, parameter, key, state[f"{name}/{key}"].to(parameter.device, torch.float32))


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


def _torch_optimizer(engine: Any) -> torch.optim.Optimizer:
    optimizer: torch.optim.Optimizer = engine.basic_optimizer
    return optimizer


def _shards(engine: Any) -> dict[nn.Parameter, Tensor]:
    """For each parameter, the vector on this rank by which the torch optimizer knows its group."""
    stage, optimizer = engine.zero_optimization_stage(), engine.optimizer
    if stage == 0:
        return {parameter: parameter for group in optimizer.param_groups for parameter in group["params"]}
    groups, vectors = (
        (optimizer.fp16_groups, optimizer.fp32_partitioned_groups_flat)
        if stage == 3
        else (optimizer.bit16_groups, optimizer.single_partition_of_fp32_groups)
    )
    return {parameter: vector for group, vector in zip(groups, vectors, strict=True) for parameter in group}


def _link(engine: Any) -> None:
    """Let parameters find their Adam state: DeepSpeed does it during the first group's first step, for no other."""
    if engine.zero_optimization_stage() in (1, 2):
        engine.optimizer._hp_optimizer_states_linked = False
        engine.optimizer._lazy_init_hp_params_optimizer_state()


def _full_moment(engine: Any, parameter: nn.Parameter, key: str) -> Tensor:
    if engine.zero_optimization_stage() == 0:
        moment: Tensor = engine.optimizer.state[parameter][key]
    else:
        moment = safe_get_full_optimizer_state(parameter, key)
    return moment


def _set_moment(engine: Any, parameter: nn.Parameter, key: str, value: Tensor) -> None:
    stage = engine.zero_optimization_stage()
    if stage == 0:
        engine.optimizer.state[parameter][key].copy_(value)
    elif stage < 3:
        safe_set_full_optimizer_state(parameter, value, key)
    else:
        # The setter for full tensors reads past the end when the last rank's piece is padded.
        size = parameter.ds_tensor.numel()  # type: ignore[attr-defined]
        padded = value.new_zeros(size * engine.world_size)
        padded[: value.numel()] = value.flatten()
        safe_set_local_optimizer_state(parameter, padded.narrow(0, size * engine.global_rank, size), key)


def _check_steps(parameters: Named, shards: Mapping[nn.Parameter, Tensor], state: Mapping[str, Tensor]) -> None:
    """DeepSpeed counts the steps of a whole group at once."""
    counts: dict[int, float] = {}
    for name, parameter in parameters:
        count = state[f"{name}/step"].item()
        if counts.setdefault(id(shards[parameter]), count) != count:
            raise ResumeMismatch(
                f"the snapshot's parameters were not all updated equally often ({name}: {count:g} times), "
                "which DeepSpeed cannot continue",
                hint="continue with --set train.backend=torch",
            )
