"""Dreams and their graph of one row, written with loops over dreams, experts, steps, roles, nodes and edges.

Shapes: as in `dreamlm.core.modules.dreaming`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from dreamlm.core.modules.dreaming.attention import SelfAttention
from dreamlm.core.modules.dreaming.edges import LearnedEdgeTypes
from dreamlm.core.modules.dreaming.expert import DreamExpert
from dreamlm.core.modules.dreaming.generator import CrossExpertAttention, DreamGenerator
from dreamlm.core.modules.dreaming.reasoner import DreamGraphReasoner, GatedMemory
from dreamlm.core.nn.norm import RMSNorm

Node = tuple[int, int]
"""Dream and step."""


def rms(norm: RMSNorm, vector_C: Tensor) -> Tensor:
    return vector_C / (vector_C.square().mean() + norm.epsilon).sqrt() * norm.weight


def heads_of(size: int, num_heads: int) -> Sequence[Tensor]:
    return torch.arange(size).chunk(num_heads)


def told(attention: SelfAttention, vectors: Sequence[Tensor], seen: Sequence[Sequence[int]]) -> list[Tensor]:
    """What each vector hears from those that it sees."""
    normal = [rms(attention.norm, vector) for vector in vectors]
    answers = []
    for number in range(len(vectors)):
        parts = []
        for head in heads_of(len(normal[0]), attention.num_heads):
            query = attention.query.weight[head] @ normal[number]
            scores = torch.stack([query @ (attention.key.weight[head] @ normal[one]) for one in seen[number]])
            weights = torch.softmax(scores / len(head) ** 0.5, dim=0)
            values = [attention.value.weight[head] @ normal[one] for one in seen[number]]
            parts.append(sum(weight * value for weight, value in zip(weights, values, strict=True)))
        answers.append(attention.output.weight @ torch.cat(parts))
    return answers


def unfolded(expert: DreamExpert, item_3C: Tensor, length: int) -> Tensor:
    """The steps (L, 3, C) that an expert dreams."""
    places = [place / place.square().mean().sqrt() for place in expert.place]
    vectors = [item_3C[role] + places[3 * step + role] for step in range(length) for role in range(3)]
    seen = [[other for other in range(3 * length) if other // 3 <= one // 3] for one in range(3 * length)]
    for block in expert.blocks:
        vectors = [one + more for one, more in zip(vectors, told(block.attention, vectors, seen), strict=True)]
        inside = [F.gelu(block.up.weight @ rms(block.norm, one), approximate="tanh") for one in vectors]
        vectors = [one + block.down.weight @ more for one, more in zip(vectors, inside, strict=True)]
    return torch.stack(vectors).view(length, 3, -1)


def dreamt(generator: DreamGenerator, roles_3C: Tensor, num_dreams: int, length: int) -> tuple[Tensor, Tensor]:
    """The dreams (N, L, 3, C), and what each expert weighs in them (N, E), without noise."""
    outputs: dict[tuple[int, int], Tensor] = {}
    gate_NE = torch.zeros(num_dreams, len(generator.experts))
    for dream in range(num_dreams):
        offset_3C = generator.offset[dream].view(3, -1)
        unit_3C = offset_3C / offset_3C.square().mean(dim=1, keepdim=True).sqrt()
        item_3C = torch.stack([rms(generator.role_norm, roles_3C[role]) + unit_3C[role] for role in range(3)])
        logits_E = generator.gate.clean.weight @ item_3C.flatten()
        best = sorted(range(len(logits_E)), key=lambda expert: -logits_E[expert])[: generator.experts.top_k]
        share_E = logits_E.exp() / logits_E.exp().sum()
        for expert in best:
            gate_NE[dream, expert] = share_E[expert] / (share_E[best].sum() if len(best) > 1 else 1)
            outputs[dream, expert] = unfolded(generator.experts[expert], item_3C, length)
    if isinstance(generator.exchange, CrossExpertAttention):
        outputs = exchanged(generator.exchange.attention, outputs, length)
    dreams = torch.zeros(num_dreams, length, 3, roles_3C.shape[1])
    for (dream, expert), steps in outputs.items():
        dreams[dream] += gate_NE[dream, expert] * steps
    return dreams, gate_NE


def exchanged(
    attention: SelfAttention, outputs: dict[tuple[int, int], Tensor], length: int
) -> dict[tuple[int, int], Tensor]:
    after = {who: steps.clone() for who, steps in outputs.items()}
    everybody = [list(range(len(outputs)))] * len(outputs)
    for step in range(length):
        for role in range(3):
            answers = told(attention, [steps[step, role] for steps in outputs.values()], everybody)
            for who, answer in zip(outputs, answers, strict=True):
                after[who][step, role] += answer
    return after


def sources(node: Node, num_dreams: int) -> list[Node]:
    """From which nodes a node hears."""
    dream, step = node
    return [(dream, step - 1)] * (step > 0) + [(other, step) for other in range(num_dreams) if other != dream]


def edge_type(types: LearnedEdgeTypes, source_C: Tensor, target_C: Tensor, inside: bool) -> Tensor:
    """Shares of the types of one edge, by an MLP of the pair."""
    first = torch.cat([types.source.weight, types.target.weight], dim=1)
    logits_Y = types.output.weight @ F.gelu(first @ torch.cat([source_C, target_C]))
    logits_Y[0 if inside else 1] += types.usual[0]
    return torch.softmax(logits_Y, dim=0)


def reasoned(
    reasoner: DreamGraphReasoner, steps_NL3C: Tensor, before_GC: Tensor, hops: int
) -> tuple[dict[Node, Tensor], dict[Node, Tensor], dict[tuple[Node, Node], Tensor]]:
    """What each node knows in the end, what it remembers, and the types of each edge (source, target)."""
    num_dreams, length = steps_NL3C.shape[:2]
    nodes = [(dream, step) for dream in range(num_dreams) for step in range(length)]
    said, memory = {}, {}
    for dream, step in nodes:
        triplet = torch.cat([rms(reasoner.step_norm, steps_NL3C[dream, step, role]) for role in range(3)])
        said[dream, step] = reasoner.node.weight @ triplet
        memory[dream, step] = before_GC[dream * length + step]

    def normal(node: Node) -> Tensor:
        return rms(reasoner.norm, said[node] + memory[node])

    edges = {}
    for target in nodes:
        for source in sources(target, num_dreams):
            inside = source[0] == target[0]
            if isinstance(reasoner.types, LearnedEdgeTypes):
                edges[source, target] = edge_type(reasoner.types, normal(source), normal(target), inside)
            else:
                edges[source, target] = F.one_hot(torch.tensor(0 if inside else 1), len(reasoner.type_vector)).float()
    for _ in range(hops):
        messages = {node: heard(reasoner, node, sources(node, num_dreams), normal, edges) for node in nodes}
        memory = {node: updated(reasoner, messages[node], memory[node]) for node in nodes}
    return {node: said[node] + memory[node] for node in nodes}, memory, edges


def heard(reasoner: DreamGraphReasoner, target: Node, speakers: list[Node], normal, edges) -> Tensor:
    """The message that a node gets; each head may also listen to nobody, with a score of 0."""
    parts, messages = [], reasoner.messages
    for number, head in enumerate(heads_of(len(normal(target)), messages.num_heads)):
        query = messages.query.weight[head] @ normal(target)
        total, part = torch.ones(()), torch.zeros(len(head))
        for source in speakers:
            feature_C = sum(share * one for share, one in zip(edges[source, target], reasoner.type_vector, strict=True))
            bias = reasoner.type_bias.weight[number] @ feature_C
            loud = (query @ (messages.key.weight[head] @ normal(source)) / len(head) ** 0.5 + bias).exp()
            total, part = total + loud, part + loud * (messages.value.weight[head] @ normal(source))
        parts.append(part / total)
    return messages.output.weight @ torch.cat(parts)


def updated(reasoner: DreamGraphReasoner, message_C: Tensor, memory_C: Tensor) -> Tensor:
    if not isinstance(reasoner.update, GatedMemory):
        return memory_C + message_C
    cell = torch.nn.GRUCell(len(memory_C), len(memory_C))
    with torch.no_grad():
        for name, part in (("ih", reasoner.update.message), ("hh", reasoner.update.memory)):
            getattr(cell, f"weight_{name}").copy_(part.weight)
            getattr(cell, f"bias_{name}").copy_(part.bias)
    return cell(message_C, memory_C)
