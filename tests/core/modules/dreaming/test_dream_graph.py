"""Messages between dreams: along which edges they go, what they weigh, and what nodes keep of them."""

import pytest
import torch
from naive_dreams import reasoned
from small_dreams import SIZE, decoder, dreaming, module_of, segments_of, steps_of, window
from torch import Tensor

from dreamlm.core.modules.dreaming.edges import edge_type_names, edges_between
from dreamlm.core.modules.dreaming.reasoner import GatedMemory

CPU = torch.device("cpu")


def test_edges_are_where_they_are_stated_and_nowhere_else() -> None:
    edges = edges_between(3, 4, CPU)
    found = {
        (divmod(source, 4), divmod(target, 4)): inside
        for source, target, inside in zip(
            edges.source_X.tolist(), edges.target_X.tolist(), edges.inside_X.tolist(), strict=True
        )
    }
    expected = {}
    for dream in range(3):
        for step in range(4):
            if step < 3:
                expected[(dream, step), (dream, step + 1)] = True
            for other in range(3):
                if other != dream:
                    expected[(dream, step), (other, step)] = False
    assert found == expected
    assert len(edges.source_X) == len(expected)


@pytest.mark.parametrize(("dreams", "length", "number"), [(1, 1, 0), (1, 3, 2), (3, 1, 6)])
def test_smallest_graphs_have_the_edges_that_are_left(dreams: int, length: int, number: int) -> None:
    assert len(edges_between(dreams, length, CPU).source_X) == number


@pytest.mark.parametrize("learned", [True, False])
@pytest.mark.parametrize("remembers", [True, False])
@pytest.mark.parametrize(("dreams", "length", "hops"), [(3, 3, 2), (1, 4, 3), (2, 1, 1)])
def test_reasoning_is_that_of_loops_over_nodes_and_edges(
    learned: bool, remembers: bool, dreams: int, length: int, hops: int
) -> None:
    reasoner = dreaming(use_learned_edges=learned, use_node_memory=remembers).reasoner
    steps, nodes = steps_of(2, dreams, length), dreams * length
    before = torch.randn(2, nodes, SIZE, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        found = reasoner(steps, before, hops)
        table = found.edges.laid_out(found.share_RXY, nodes)
        for row in range(2):
            knows, memory, edges = reasoned(reasoner, steps[row], before[row], hops)
            torch.testing.assert_close(found.nodes_RGC[row], torch.stack([*knows.values()]), atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(found.memory_RGC[row], torch.stack([*memory.values()]), atol=1e-4, rtol=1e-4)
            for (source, target), shares in edges.items():
                place = source[0] * length + source[1], target[0] * length + target[1]
                torch.testing.assert_close(table[row][place], shares, atol=1e-5, rtol=1e-5)
            assert int((table[row].amax(dim=2) > 0).sum()) == len(edges)


@pytest.mark.parametrize("remembers", [True, False])
def test_messages_go_from_source_to_target_only_and_one_edge_a_hop(remembers: bool) -> None:
    """Node (1, 2) of three dreams of five steps is another one: who notices?"""
    reasoner = dreaming(use_node_memory=remembers).reasoner
    steps, blank = steps_of(1, 3, 5), torch.zeros(1, 15, SIZE)
    changed = steps.clone()
    changed[0, 1, 2] = -changed[0, 1, 2]
    itself = {(1, 2)}
    after_one = itself | {(1, 3), (0, 2), (2, 2)}
    after_two = after_one | {(1, 4), (0, 3), (2, 3)}
    for hops, expected in ((1, after_one), (2, after_two)):
        with torch.no_grad():
            moved = (reasoner(changed, blank, hops).nodes_RGC - reasoner(steps, blank, hops).nodes_RGC)[0]
        assert {divmod(node, 5) for node in range(15) if moved[node].abs().max() > 1e-6} == expected


def test_a_node_that_nobody_speaks_to_hears_nothing() -> None:
    reasoner = dreaming(use_node_memory=False).reasoner
    found = reasoner(steps_of(2, 1, 3), torch.zeros(2, 3, SIZE), 2)
    assert found.memory_RGC[:, 0].abs().max() == 0
    assert found.memory_RGC[:, 1:].abs().amax(dim=2).min() > 0
    found.nodes_RGC.sum().backward()
    assert all(one.grad is None or one.grad.isfinite().all() for one in reasoner.parameters())


def test_a_single_edge_still_says_how_loud_it_is() -> None:
    """Where a softmax over one source would give 1 whatever the type of the edge."""
    reasoner = dreaming().reasoner
    steps, blank = steps_of(1, 1, 2), torch.zeros(1, 2, SIZE)
    with torch.no_grad():
        before = reasoner(steps, blank, 1).nodes_RGC[0, 1]
        reasoner.type_vector.mul_(2.0)
        after = reasoner(steps, blank, 1).nodes_RGC[0, 1]
    assert (after - before).abs().max() > 1e-3


def test_edges_start_as_what_they_are_called() -> None:
    """With an MLP that says nothing, edges inside a dream are rather temporal, those between dreams rather spatial."""
    types = dreaming().reasoner.types
    torch.nn.init.zeros_(types.output.weight)
    torch.nn.init.ones_(types.usual)
    edges = edges_between(2, 3, CPU)
    shares = types(torch.randn(1, 6, SIZE), edges)[0]
    high, low = (torch.tensor([1.0, 0, 0, 0]).softmax(dim=0)[place].item() for place in (0, 1))
    for inside, share in zip(edges.inside_X.tolist(), shares.tolist(), strict=True):
        assert share == pytest.approx([high, low, low, low] if inside else [low, high, low, low])


def test_names_of_edge_types() -> None:
    assert edge_type_names(2) == ("temporal", "spatial")
    assert edge_type_names(6) == ("temporal", "spatial", "causal", "abstract", "type_4", "type_5")


def test_gated_memory_is_a_gated_recurrent_unit() -> None:
    torch.manual_seed(0)
    memory, cell = GatedMemory(SIZE), torch.nn.GRUCell(SIZE, SIZE)
    for ours, theirs in ((memory.message, "ih"), (memory.memory, "hh")):
        ours.weight.data.copy_(getattr(cell, f"weight_{theirs}"))
        ours.bias.data.copy_(getattr(cell, f"bias_{theirs}"))
    message, before = torch.randn(3, 5, SIZE), torch.randn(3, 5, SIZE)
    wanted = cell(message.flatten(0, 1), before.flatten(0, 1)).view_as(message)
    torch.testing.assert_close(memory(message, before), wanted)


@pytest.mark.parametrize("sizes", [(1, 1), (1, 3), (3, 1)])
def test_one_dream_and_one_step_are_finite_and_learn(sizes: tuple[int, int]) -> None:
    module = dreaming(num_dream_sequences=sizes[0], dream_length=sizes[1])
    hidden, own = segments_of()
    written = module.write(module.blank(3, CPU), hidden, own)
    module.read(hidden, written.memory).sum().backward()
    assert all(value.isfinite().all() for value in (*written.memory.values(), *written.probes.values()))
    for name, one in module.named_parameters():
        assert one.grad is None or one.grad.isfinite().all(), name


def memories(model, tokens: Tensor, documents: Tensor) -> list[Tensor]:
    with torch.no_grad():
        signals = model.segments(tokens, documents, model.start(len(tokens)))
        return [signal.carry.states["dreaming"].memory["node_memory"] for signal in signals]


def test_nodes_forget_another_document() -> None:
    model, tokens = decoder(), window(2)
    other = torch.cat([window(2, seed=9)[:, :8], tokens[:, 8:]], dim=1)
    two = torch.tensor([[0] * 8 + [1] * 8] * 2)
    last = [memories(model, ids, two)[-1] for ids in (tokens, other)]
    torch.testing.assert_close(*last, atol=1e-6, rtol=0.0)
    alone = memories(model, tokens[:, 8:], torch.zeros(2, 8, dtype=torch.int64))
    torch.testing.assert_close(last[0], alone[-1], atol=1e-5, rtol=1e-5)


def test_what_a_node_keeps_changes_what_it_says_and_keeps_next() -> None:
    """Of the same segment: only what nodes kept of the one before is another."""
    module, (hidden, own) = dreaming(), segments_of()
    blank = module.blank(3, CPU)
    with torch.no_grad():
        kept = module.write(blank, -hidden, own).memory["node_memory"]
        told, fresh = (
            module.write({**blank, "node_memory": one}, hidden, own).memory for one in (kept, blank["node_memory"])
        )
    for key in ("reasoning", "node_memory"):
        assert (told[key] - fresh[key]).abs().amax(dim=2).min() > 1e-3


def test_a_later_segment_trains_every_token_of_an_earlier_one_through_what_nodes_keep() -> None:
    module, (hidden, own) = dreaming(), segments_of()
    blank, earlier = module.blank(3, CPU), segments_of(seed=6)[0].requires_grad_()
    kept = module.write(blank, earlier, own).memory["node_memory"]
    module.write({**blank, "node_memory": kept}, hidden, own).memory["reasoning"].square().sum().backward()
    assert earlier.grad is not None
    assert earlier.grad.abs().amax(dim=2).min() > 0


def test_without_memory_a_segment_starts_from_nothing() -> None:
    module, (hidden, own) = module_of(decoder(use_node_memory=False)), segments_of()
    first = module.write(module.blank(3, CPU), -hidden, own)
    after, fresh = (module.write(before, hidden, own).memory for before in (first.memory, module.blank(3, CPU)))
    assert torch.equal(after["reasoning"], fresh["reasoning"])
    assert "node_memory" not in after
