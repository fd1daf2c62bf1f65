"""Qwen3Next, the stock architecture with gated attention, told by how it differs from Qwen3.

1. One projection makes query and gate: per head first the rows of its query, then as many of its gate. A head of
   dreamlm has a single gate, so that row is repeated.
2. Its gate is sigmoid(w x), dreamlm's is twice that: the output projection is doubled, which rounds nothing.
3. Its norms multiply by 1 + weight: weights of norms are stored less 1.
4. Layers of its other kinds (linear attention, experts) and rotation of only a part of each head are switched off.

The way back gives what such a folder computes with: bit by bit what was exported, save norm weights below 1/2, which
less 1 are rounded, by 2^-24 at most.  Imports no torch.

Source: transformers, `models/qwen3_next/modeling_qwen3_next.py`. Before version 5.15, a model without linear attention
generates there only with `use_cache=False`.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dreamlm.checkpoints.convert.refusal import inexpressible
from dreamlm.checkpoints.tensors import RawTensor
from dreamlm.core.errors import CheckpointError, UserMistake

if TYPE_CHECKING:
    from torch import Tensor

_GATE, _QUERY, _OUTPUT = (f".attention.{part}.weight" for part in ("gate", "query", "output"))
_NORM = "norm.weight"
"""Ends of dreamlm's names; the last is that of every norm."""

Floats = npt.NDArray[np.float32]


def qwen3_next_config(qwen3: Mapping[str, Any]) -> dict[str, Any]:
    """What config.json says of the Qwen3Next that is a Qwen3 with gates."""
    layers = qwen3["num_hidden_layers"]
    return {
        **qwen3,
        "architectures": ["Qwen3NextForCausalLM"],
        "model_type": "qwen3_next",
        "layer_types": ["full_attention"] * layers,
        "mlp_only_layers": list(range(layers)),
        "num_experts": 0,
        "num_experts_per_tok": 0,
        # Here too: where there is a rope_scaling, transformers reads that and not rope_parameters.
        "partial_rotary_factor": 1.0,
        "rope_parameters": {**qwen3["rope_parameters"], "partial_rotary_factor": 1.0},
    }


def qwen3_next_tensors(own: Mapping[str, RawTensor], where: str) -> dict[str, RawTensor]:
    """The weights of a gated decoder with QK-norm, still by dreamlm's names, as Qwen3Next computes with them.

    Raises: UserMistake when they are not fp32.  Cost: holds the tensors that change in memory.
    """
    if types := sorted({tensor.dtype for tensor in own.values()} - {"F32"}):
        raise inexpressible(f"attention_gate in {', '.join(types)}: norm weights less 1 would be rounded", where)
    return {name: _converted(name, own) for name in own if not name.endswith(_GATE)}


def stock_shapes(own: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """The shapes that a Qwen3Next has for those of a gated decoder, by dreamlm's names: `own_tensors` the other way."""
    shapes = {name: shape for name, shape in own.items() if not name.endswith(_GATE)}
    return shapes | {name: (2 * shape[0], *shape[1:]) for name, shape in shapes.items() if name.endswith(_QUERY)}


def own_tensors(stock: Mapping[str, "Tensor"], num_heads: int, where: str) -> dict[str, "Tensor"]:
    """The weights of a Qwen3Next, by dreamlm's names already, as a gated decoder computes with them; norms in fp32.

    Raises: UserMistake naming the projections that gate the components of a head apart; CheckpointError when one has
    no gates.
    """
    own = dict(stock)
    several = []
    for name, weight in stock.items():
        if name.endswith(_QUERY):
            if len(weight) % (2 * num_heads):
                what = f"{name} has {len(weight)} rows: no query and gate for each of {num_heads} heads"
                raise CheckpointError(what, where=where)
            query_HKD, gate_HKD = weight.view(num_heads, 2, -1, weight.shape[1]).unbind(dim=1)
            own[name] = query_HKD.flatten(0, 1)
            own[name.removesuffix(_QUERY) + _GATE] = gate_HKD[:, 0].contiguous()
            if not gate_HKD.equal(gate_HKD[:, :1].expand_as(gate_HKD)):
                several.append(name)
        elif name.endswith(_OUTPUT):
            own[name] = weight / 2
        elif name.endswith(_NORM):
            own[name] = weight.float() + 1
    if several:
        what = f"a head of a dreamlm decoder has one gate, these have one for each component: {', '.join(several)}"
        raise UserMistake(what, where=where)
    return own


def _converted(name: str, own: Mapping[str, RawTensor]) -> RawTensor:
    if name.endswith(_QUERY):
        return _raw(_with_gate(_floats(own[name]), _floats(own[name.removesuffix(_QUERY) + _GATE])))
    if name.endswith(_OUTPUT):
        return _raw(2 * _floats(own[name]))
    if name.endswith(_NORM):
        return _raw(_floats(own[name]) - 1)
    return own[name]


def _with_gate(query_XD: Floats, gate_HD: Floats) -> Floats:
    """One projection of 2 X rows; X is the number of heads H times the rows K of a head."""
    heads, hidden_size = gate_HD.shape
    query_HKD = query_XD.reshape(heads, -1, hidden_size)
    gate_HKD = np.broadcast_to(gate_HD[:, None], query_HKD.shape)
    return np.concatenate([query_HKD, gate_HKD], axis=1).reshape(-1, hidden_size)


def _floats(tensor: RawTensor) -> Floats:
    return np.frombuffer(tensor.data, "<f4").reshape(tensor.shape)


def _raw(values: Floats) -> RawTensor:
    return RawTensor("F32", values.shape, values.astype("<f4", copy=False).reshape(-1).view(np.uint8).data)
