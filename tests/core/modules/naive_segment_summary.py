"""The segment summary of one row, token by token, without batches, masks or a carry.

Shapes: T tokens, S tokens of a segment, M vectors, D width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from naive_attention import found_by_queries
from torch import Tensor

from dreamlm.core.modules.segment_summary import SegmentSummary


@dataclass
class Row:
    """What a row of tokens makes of a module without memory."""

    out_TD: Tensor
    summary_MD: Tensor
    loss: float
    """Summed over the tokens that were written for others to read."""


def naive(module: SegmentSummary, hidden_TD: Tensor, documents: Sequence[int], padding: int, size: int) -> Row:
    summary, owner, loss = torch.zeros(module.num_vectors, module.size), None, 0.0
    out, segment = [], []
    for t, document in enumerate(documents):
        reads = document >= 0 and document == owner
        out.append(hidden_TD[t] + (_read(module, hidden_TD[t], summary) if reads else 0))
        if t >= padding:
            segment.append(t)
        if len(segment) == size:
            last = max(documents[token] for token in segment)
            own = [token for token in segment if documents[token] == last]
            if last >= 0:
                before = summary if last == owner else torch.zeros_like(summary)
                summary, owner = _write(module, before, hidden_TD[own]), last
                # What ends with padding and has nothing but padding behind it is read by nobody.
                if max(documents[t:]) >= 0:
                    loss += sum(_error(module, summary, hidden_TD[token], segment.index(token)) for token in own)
            segment = []
    return Row(torch.stack(out), summary, loss)


def _attend(query_D: Tensor, keys: Sequence[Tensor], values: Sequence[Tensor]) -> Tensor:
    scores = torch.stack([query_D @ key_D for key_D in keys]) / len(query_D) ** 0.5
    weights = scores.exp() / scores.exp().sum()
    return sum(weight * value_D for weight, value_D in zip(weights, values, strict=True))


def _rms(value_D: Tensor, weight_D: Tensor | float, epsilon: float) -> Tensor:
    return value_D / (value_D.square().mean() + epsilon).sqrt() * weight_D


def _from_summary(module: SegmentSummary, query_D: Tensor, summary_MD: Tensor) -> Tensor:
    vectors = [_rms(vector_D, module.read_norm.weight, module.read_norm.epsilon) for vector_D in summary_MD]
    keys = [module.read_key.weight @ vector_D for vector_D in vectors]
    return _attend(query_D, keys, [module.read_value.weight @ vector_D for vector_D in vectors])


def _read(module: SegmentSummary, token_D: Tensor, summary_MD: Tensor) -> Tensor:
    query_D = module.read_query.weight @ _rms(token_D, module.norm.weight, module.norm.epsilon)
    return module.residual.weight @ _from_summary(module, query_D, summary_MD)


def _write(module: SegmentSummary, before_MD: Tensor, own_ND: Tensor) -> Tensor:
    normal = [_rms(token_D, module.norm.weight, module.norm.epsilon) for token_D in own_ND]
    keys = [module.pool_key.weight @ token_D for token_D in normal]
    values = [module.pool_value.weight @ token_D for token_D in normal]
    vectors = []
    for fresh_D, before_D in zip(found_by_queries(module.pool, keys, values), before_MD, strict=True):
        gate_D = module.gate.weight @ torch.cat([before_D, fresh_D]) + module.gate.bias
        keep_D = 1 / (1 + (-gate_D).exp())
        vectors.append(keep_D * before_D + (1 - keep_D) * fresh_D)
    return torch.stack(vectors)


def _error(module: SegmentSummary, summary_MD: Tensor, token_D: Tensor, place: int) -> float:
    place_D = module.place[place]
    found_D = _from_summary(module, place_D, summary_MD)
    inside_D = module.decode_in.weight @ torch.cat([found_D, place_D])
    decoded_D = module.decode_out.weight @ (inside_D * 0.5 * (1 + torch.erf(inside_D / 2**0.5)))
    return (decoded_D - _rms(token_D, 1.0, 1e-7)).square().mean().item()
