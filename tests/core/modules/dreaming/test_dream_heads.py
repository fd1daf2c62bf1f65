"""Every attention of a dreaming module has the heads that its settings say.

Where the values of all components are alike, a head finds one number for all of its own: so heads can be counted.
"""

import pytest
import torch
from naive_dreams import reasoned
from small_dreams import SIZE, decoder, dreaming, module_of, segments_of, steps_of, window
from torch import Tensor, nn

ROWS, VECTORS = 3, 6


def heads_in(found: Tensor) -> int:
    """How many numbers there are in a vector; two heads may find the same by chance, but not in all vectors."""
    return max(len(vector.round(decimals=5).unique()) for vector in found.detach().flatten(0, -2))


@torch.no_grad()
def alike(*values: nn.Linear) -> None:
    for one in values:
        one.weight.copy_(one.weight[:1].clone().expand_as(one.weight))


@torch.no_grad()
def unmixed(*outputs: nn.Linear) -> None:
    for one in outputs:
        nn.init.eye_(one.weight)


def vectors_of(seed: int = 5) -> Tensor:
    return torch.randn(ROWS, VECTORS, SIZE, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("heads", [1, 2, 8])
def test_roles_experts_and_their_exchange_have_the_experts_heads(heads: int) -> None:
    module = dreaming(expert_num_heads=heads, expert_num_layers=2)
    blocks = [block for expert in module.generator.experts for block in expert.blocks]
    assert len(blocks) == 4 * 2
    for attention in (module.generator.exchange.attention, *(block.attention for block in blocks)):
        alike(attention.value)
        unmixed(attention.output)
        assert heads_in(attention(vectors_of())) == heads
    alike(module.pooling.value)
    assert heads_in(module.pooling(*segments_of())) == heads


@pytest.mark.parametrize("heads", [1, 4, 8])
def test_messages_and_the_pooling_of_nodes_have_the_graphs_heads(heads: int) -> None:
    module = dreaming(graph_num_heads=heads, read="gate")
    messages, reader = module.reasoner.messages, module.reader
    alike(messages.value, reader.value)
    unmixed(messages.output, reader.residual)
    nn.init.zeros_(reader.gate.weight)
    assert heads_in(messages(vectors_of(), torch.zeros(ROWS, heads, VECTORS, VECTORS))) == heads
    hidden, _ = segments_of()
    assert heads_in(module.read(hidden, {"reasoning": vectors_of()})) == heads


@pytest.mark.parametrize("heads", [1, 4, 8])
def test_messages_of_any_number_of_heads_are_those_of_loops(heads: int) -> None:
    reasoner = dreaming(graph_num_heads=heads).reasoner
    steps, before = steps_of(2, 2, 3), vectors_of()[:2]
    with torch.no_grad():
        found = reasoner(steps, before, 2)
        for row in range(2):
            knows, _, _ = reasoned(reasoner, steps[row], before[row], 2)
            torch.testing.assert_close(found.nodes_RGC[row], torch.stack([*knows.values()]), atol=1e-4, rtol=1e-4)


def test_heads_of_the_graph_change_logits() -> None:
    """Of models with the same weights everywhere but in the biases of the heads, which are 0."""
    few, many = decoder(graph_num_heads=1), decoder(graph_num_heads=8)
    shared = {name: value for name, value in few.state_dict().items() if "type_bias" not in name}
    assert many.load_state_dict(shared, strict=False).missing_keys == ["cognition.0.reasoner.type_bias.weight"]
    found = []
    for model in (few, many):
        nn.init.zeros_(module_of(model).reasoner.type_bias.weight)
        tokens = window()
        with torch.no_grad():
            found.append(model.logits(model(tokens, torch.zeros_like(tokens), model.start(3)).hidden))
    assert torch.equal(found[0][:, :4], found[1][:, :4])
    assert (found[0] - found[1])[:, 4:].abs().amax(dim=2).min() > 1e-5
