"""Dreaming as a module: what each setting changes, what stages change, what tokens read, and what is shown.

Shapes: as in `dreamlm.core.modules.dreaming`.
"""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from naive_attention import attended, found_by_queries
from pydantic import ValidationError
from small_dreams import SEGMENT, SIZE, SMALL, TRUNK, decoder, dreaming, module_of, segments_of, window
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from dreamlm.core.errors import UserMistake
from dreamlm.core.modules.dreaming.dreaming import Dreaming
from dreamlm.core.modules.stage import Stage
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.objectives.causal import CausalObjective
from dreamlm.core.objectives.diffusion import DiffusionObjective

CPU = torch.device("cpu")


def logits_of(model: DreamLM, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        return model.logits(model(tokens, torch.zeros_like(tokens), model.start(len(tokens))).hidden)


def parameters(model: DreamLM) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def work(model: DreamLM) -> int:
    with FlopCounterMode(display=False) as counter:
        logits_of(model, window(256))
    return counter.get_total_flops()


SETTINGS: list[tuple[dict[str, Any], int, int]] = [
    ({"num_dream_sequences": 4}, 0, 1),
    ({"dream_length": 5}, 0, 1),
    ({"graph_reasoning_hops": 4}, 0, 1),
    ({"num_experts": 8}, 1, 0),
    ({"moe_top_k": 4}, 0, 1),
    ({"expert_num_layers": 2}, 1, 1),
    ({"expert_num_heads": 2}, 0, 0),
    ({"use_cross_expert_attention": False}, -1, -1),
    ({"use_gate": False}, -1, 0),
    ({"use_learned_edges": False}, -1, -1),
    ({"num_edge_types": 3}, -1, 0),
    ({"use_node_memory": False}, -1, -1),
    ({"moe_noise_std": 0.0}, -1, 0),
    ({"dream_size": 8}, -1, -1),
    ({"max_dream_length": 9}, 1, 0),
    ({"max_dream_sequences": 16}, 1, 0),
]
"""A setting, and whether it makes parameters and work more (1), less (-1) or leaves them as they are (0)."""


@pytest.mark.parametrize(("setting", "more_parameters", "more_work"), SETTINGS, ids=lambda one: str(one))
def test_a_setting_changes_what_it_is_said_to_change(
    setting: dict[str, Any], more_parameters: int, more_work: int
) -> None:
    before, after = decoder(), decoder(**setting)
    assert _sign(parameters(after) - parameters(before)) == more_parameters
    ratio = work(after) / work(before)
    assert (ratio > 1.015) - (ratio < 0.985) == more_work
    if not more_parameters:
        assert all(map(torch.equal, before.state_dict().values(), after.state_dict().values()))
        tokens = window()
        differences = (logits_of(after, tokens) - logits_of(before, tokens)).abs()
        assert differences[:, :SEGMENT].max() == 0
        assert differences[:, SEGMENT:].amax(dim=2).min() > 1e-5


def _sign(number: int) -> int:
    return (number > 0) - (number < 0)


def test_heads_of_the_graph_have_their_own_biases() -> None:
    assert dreaming(graph_num_heads=4).reasoner.type_bias.weight.shape == (4, SIZE)


@pytest.mark.parametrize("read", ["attention", "gate"])
def test_reading_is_the_formula_written_token_by_token(read: str) -> None:
    module = dreaming(read=read)
    hidden, _ = segments_of()
    nodes = torch.randn(3, 6, SIZE, generator=torch.Generator().manual_seed(7))
    reader = module.reader
    with torch.no_grad():
        added = module.read(hidden, {"reasoning": nodes})
        for row in range(3):
            known = [_rms(node, reader.node_norm) for node in nodes[row]]
            keys, values = ([part.weight @ node for node in known] for part in (reader.key, reader.value))
            for token in range(SEGMENT):
                normal = _rms(hidden[row, token], reader.norm)
                if read == "attention":
                    found = attended(reader.query.weight @ normal, keys, values, reader.num_heads)
                else:
                    pooled = found_by_queries(reader.pooling, keys, values)[0]
                    found = pooled / (1 + (-(reader.gate.weight @ normal)).exp())
                torch.testing.assert_close(added[row, token], reader.residual.weight @ found, atol=1e-5, rtol=1e-4)


def _rms(vector: Tensor, norm: Any) -> Tensor:
    return vector / (vector.square().mean() + norm.epsilon).sqrt() * norm.weight


def test_the_order_of_a_segment_is_in_its_roles() -> None:
    """Of vectors that know nothing of their places, and are the same ones in both orders."""
    pooling, (hidden, own) = dreaming().pooling, segments_of()
    with torch.no_grad():
        there, back = pooling(hidden, own), pooling(hidden.flip(1), own)
        pooling.place.zero_()
        torch.testing.assert_close(pooling(hidden, own), pooling(hidden.flip(1), own), atol=1e-5, rtol=1e-5)
    assert (there - back).abs().amax(dim=2).min() > 0.01


@pytest.mark.parametrize("read", ["attention", "gate"])
def test_the_order_of_the_first_segment_reaches_later_logits_through_dreams_alone(read: str) -> None:
    """Without positions, and with key/value caches that begin empty behind the first segment."""
    model, tokens = decoder(trunk={"positions": "none"}, read=read, after=0), window()
    answers = []
    for first in (tokens[:, :SEGMENT], tokens[:, :SEGMENT].flip(1)):
        start = model.start(len(tokens))
        dreamt = model(first, torch.zeros_like(first), start).carry.states["dreaming"]
        carry = replace(start, states={**start.states, "dreaming": dreamt})
        rest = tokens[:, SEGMENT:]
        with torch.no_grad():
            answers.append(model.logits(model(rest, torch.zeros_like(rest), carry).hidden))
    assert (answers[0] - answers[1]).abs().amax(dim=(1, 2)).min() > 1e-3


def test_tokens_that_are_not_a_segments_own_have_no_influence() -> None:
    module, (hidden, own) = dreaming(), segments_of()
    own[:, :2] = False
    other = torch.cat([torch.randn(3, 2, SIZE), hidden[:, 2:]], dim=1)
    first, second = (module.write(module.blank(3, CPU), one, own).memory for one in (hidden, other))
    assert all(torch.equal(first[key], second[key]) for key in first)


STAGE = Stage(num_dream_sequences=3, dream_length=5, graph_reasoning_hops=1)


@pytest.mark.parametrize("kind", [{}, {"diffusion": "block_diffusion"}])
def test_a_stage_changes_live_sizes_and_no_weight(kind: dict[str, str]) -> None:
    model, tokens = decoder(kind), window()
    weights, before = {key: value.clone() for key, value in model.state_dict().items()}, logits_of(model, tokens)
    model.enter(STAGE)
    after = logits_of(model, tokens)
    assert (after - before)[:, SEGMENT:].abs().amax(dim=(1, 2)).min() > 1e-3
    assert model.state_dict().keys() == weights.keys()
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())
    born = decoder(kind, num_dream_sequences=3, dream_length=5, graph_reasoning_hops=1)
    assert torch.equal(logits_of(born, tokens), after)
    with torch.no_grad():
        memory = model(tokens, torch.zeros_like(tokens), model.start(3)).carry.states["dreaming"].memory
    assert {key: tuple(value.shape) for key, value in memory.items()} == {
        "reasoning": (3, 15, SIZE),
        "node_memory": (3, 15, SIZE),
        "roles": (3, 3, SIZE),
        "dreams": (3, 3, 5, 3, SIZE),
        "gate": (3, 3, 4),
        "edges": (3, 15, 15, 4),
    }


def test_each_number_of_a_stage_is_the_one_it_names() -> None:
    module = dreaming()
    module.enter(STAGE)
    assert (module.num_dreams, module.length, module.hops) == (3, 5, 1)


@pytest.mark.parametrize(
    ("setting", "value", "limit"), [("dream_length", 6, "max_dream_length"), ("num_dream_sequences", 9, "max_dream_s")]
)
def test_a_stage_that_asks_for_too_much_is_refused(setting: str, value: int, limit: str) -> None:
    module, stage = dreaming(), STAGE.model_copy(update={setting: value})
    with pytest.raises(UserMistake, match=f"dreaming cannot have {setting} {value}") as caught:
        module.enter(stage)
    assert limit in caught.value.hint
    assert (module.num_dreams, module.length) == (2, 3)
    assert [name for name, _ in module.config.objections(stage)] == [setting]
    assert module.config.objections(STAGE) == []


def test_a_stage_in_which_experts_would_never_have_a_turn_is_refused() -> None:
    few = STAGE.model_copy(update={"num_dream_sequences": 1})
    ((setting, what),) = dreaming(use_gate=False).config.objections(few)
    assert (setting, what.endswith("the others would never dream")) == ("num_dream_sequences", True)
    assert dreaming(use_gate=False, num_experts=2).config.objections(few) == dreaming().config.objections(few) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"moe_top_k": 5}, "moe_top_k 5 cannot exceed num_experts 4"),
        ({"expert_num_heads": 3}, "expert_num_heads 3 must divide the width of dreams, 16"),
        ({"dream_size": 10, "expert_num_heads": 2, "graph_num_heads": 4}, "graph_num_heads 4 must divide .* 10"),
        ({"dream_length": 6}, "dream_length 6: dreaming has places for at most 5; raise its max_dream_length to 6"),
        ({"num_dream_sequences": 3, "max_dream_sequences": 2}, "at most 2; raise its max_dream_sequences to 3"),
        ({"graph_reasoning_hops": 0}, "greater than or equal to 1"),
        ({"use_gate": False, "num_dream_sequences": 1}, "have 2 of num_experts 4: the others would never dream"),
        ({"use_gate": False, "moe_noise_std": 0.3}, "without use_gate there is nothing that moe_noise_std could do"),
        ({"use_gate": False, "load_balance_loss_weight": 1.0}, "nothing that load_balance_loss_weight could do"),
        (
            {"num_experts": 1, "moe_top_k": 1, "moe_noise_std": 0.3},
            "without a second expert there is nothing that moe_",
        ),
    ],
)
def test_sizes_that_do_not_fit_are_refused_with_what_to_change(settings: dict[str, int], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DreamLM.Config.model_validate({**TRUNK, "modules": [{**SMALL, **settings}]})


def test_a_single_expert_dreams_without_a_gate() -> None:
    model = decoder(num_experts=1, moe_top_k=1)
    tokens = window()
    losses = CausalObjective(model, 0.0)(tokens, torch.zeros_like(tokens), True).objectives
    assert "dreaming.balance" not in losses
    assert "dreaming.balance" not in model.config.loss_weights
    assert not list(module_of(model).generator.gate.parameters())
    losses["token"].backward()
    assert all(one.grad is not None and one.grad.any() for one in module_of(model).generator.experts.parameters())


def test_defaults_are_the_stated_ones_and_leave_room_for_stages() -> None:
    config = Dreaming.Config()
    assert (config.num_dream_sequences, config.dream_length, config.graph_reasoning_hops) == (4, 5, 3)
    assert (config.num_experts, config.moe_top_k, config.moe_noise_std) == (4, 2, 0.1)
    assert (config.expert_num_layers, config.expert_num_heads, config.graph_num_heads) == (2, 8, 8)
    assert config.num_edge_types == 4
    assert config.use_cross_expert_attention
    assert config.use_gate
    assert config.use_learned_edges
    assert config.use_node_memory
    assert config.loss_weights == {"balance": 0.01}
    assert (config.longest, config.most_dreams) == (8, 8)
    assert Dreaming.Config(dream_length=11).longest == 11


@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_the_balance_counts_what_its_weight_says(weight: float) -> None:
    assert decoder(load_balance_loss_weight=weight).config.loss_weights == {"token": 1.0, "dreaming.balance": weight}


def test_one_type_of_edges_has_nothing_to_learn() -> None:
    learned, fixed = (decoder(num_edge_types=1, use_learned_edges=learned) for learned in (True, False))
    assert learned.state_dict().keys() == fixed.state_dict().keys()
    assert torch.equal(logits_of(learned, window()), logits_of(fixed, window()))


def test_what_is_shown_is_detached_and_what_is_read_is_not() -> None:
    module = dreaming()
    memory = module.write(module.blank(3, CPU), *segments_of()).memory
    assert {key for key, value in memory.items() if not value.requires_grad} == Dreaming.shown
    assert memory.keys() - Dreaming.shown == {"reasoning", "node_memory"}


def test_shown_gates_and_edges_say_what_happened() -> None:
    module = dreaming(num_dream_sequences=3)
    memory = module.write(module.blank(3, CPU), *segments_of()).memory
    gate, edges = memory["gate"], memory["edges"]
    assert ((gate > 0).sum(dim=2) == 2).all()
    torch.testing.assert_close(gate.sum(dim=2), torch.ones(3, 3))
    there = edges.sum(dim=3)
    for source in range(9):
        for target in range(9):
            (dream, step), (other, later) = divmod(source, 3), divmod(target, 3)
            wanted = (dream == other and later == step + 1) or (dream != other and step == later)
            torch.testing.assert_close(there[:, source, target], torch.full((3,), float(wanted)))


def test_a_module_that_reads_many_moments_is_not_given_what_is_only_shown() -> None:
    model = decoder({"diffusion": {"block_size": 4}})
    module, given = module_of(model), []
    own = module.read

    def read(hidden: Tensor, memory: Any) -> Tensor:
        given.append(set(memory))
        return own(hidden, memory)

    module.read = read  # type: ignore[method-assign]
    DiffusionObjective(model, 0.0, 0)(window(length=17), torch.zeros(3, 17, dtype=torch.int64), False)
    assert {"reasoning", "node_memory"} in given


def test_probes_are_what_they_are_called() -> None:
    module, (hidden, own) = dreaming(num_dream_sequences=3), segments_of(4)
    own[1] = False
    real = [0, 2, 3]
    written = module.write(module.blank(4, CPU), hidden, own)
    memory, probes = written.memory, written.probes
    chosen = (memory["gate"][real] > 0).sum(dim=(0, 1))
    usage = chosen / chosen.sum()
    torch.testing.assert_close(probes["usage"], usage)
    entropy = -sum(share * math.log(share) for share in usage.tolist() if share)
    assert probes["usage_entropy"].item() == pytest.approx(entropy)
    pairs = [(0, 1), (0, 2), (1, 2)]
    dreams = memory["dreams"].flatten(2)
    distances = [
        1 - F.cosine_similarity(dreams[row, one], dreams[row, two], dim=0) for row in real for one, two in pairs
    ]
    assert probes["distance"].item() == pytest.approx(torch.stack(distances).mean().item(), abs=1e-5)
    edges = memory["edges"][real]
    number = (edges[0].sum(dim=2) > 0).sum()
    for place, name in enumerate(("temporal", "spatial", "causal", "abstract")):
        share = edges[..., place].sum() / (number * len(real))
        assert probes[f"edges.{name}"].item() == pytest.approx(share.item(), abs=1e-5)
    assert not any(value.requires_grad for value in probes.values())


def test_the_balance_counts_every_token_of_rows_that_write_and_no_other() -> None:
    module, (hidden, own) = dreaming(), segments_of(4)
    own[1] = False
    everyone = module.write(module.blank(4, CPU), hidden, own).losses["balance"]
    some = module.write(module.blank(3, CPU), hidden[[0, 2, 3]], own[[0, 2, 3]]).losses["balance"]
    assert everyone.shape == (4,)
    torch.testing.assert_close(everyone[[0, 2, 3]], some)
    model, tokens = decoder(), window(3, 17)
    with torch.no_grad():
        losses = CausalObjective(model, 0.0)(tokens, torch.zeros_like(tokens), False).objectives
    # Three of four segments are written, of three rows.
    assert 0.9 < losses["dreaming.balance"].item() / (3 * 3 * SEGMENT) < 4.0


@pytest.mark.parametrize("kind", ["causal", "diffusion"])
@pytest.mark.parametrize("read", ["attention", "gate"])
def test_bf16_is_near_fp32_and_keeps_memories_in_fp32(kind: str, read: str) -> None:
    model = decoder({"diffusion": "block_diffusion"} if kind == "diffusion" else {}, read=read)
    tokens = window(3, 17)
    objective = DiffusionObjective(model, 0.0, 0) if kind == "diffusion" else CausalObjective(model, 0.0)
    found = []
    for enabled in (True, False):
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            losses = objective(tokens, torch.zeros_like(tokens), False)
            signal = model(tokens[:, :16], torch.zeros(3, 16, dtype=torch.int64), model.start(3))
        found.append(losses.nll.item())
        assert {value.dtype for value in signal.carry.states["dreaming"].memory.values()} == {torch.float32}
        sum(losses.objectives.values()).backward()
    assert found[0] == pytest.approx(found[1], rel=0.05)
    assert all(one.grad is None or one.grad.isfinite().all() for one in module_of(model).parameters())


def test_later_losses_train_every_part_of_earlier_dreams() -> None:
    """The language loss alone reaches everything but the noise of the gate, which only training mode has."""
    model, tokens = decoder(), window(8, 17)
    objective = CausalObjective(model, 0.0)
    objective(tokens, torch.zeros_like(tokens), False).objectives["token"].backward()
    idle = [name for name, one in module_of(model).named_parameters() if one.grad is None or not one.grad.abs().sum()]
    assert idle == ["generator.gate.noise.loudness.weight"]


def test_noise_of_the_gate_is_for_training_only() -> None:
    model, tokens = decoder(moe_noise_std=5.0), window()
    assert torch.equal(logits_of(model, tokens), logits_of(model, tokens))
    model.train()
    assert not torch.allclose(logits_of(model, tokens), logits_of(model, tokens))


def test_vectors_of_tokens_become_what_tells_roles_apart() -> None:
    """What a role is when a segment holds one token alone, less what it is on average, of more than one stretch."""
    pooling, number = dreaming().pooling, 1500
    vectors, own = torch.randn(number, 1, SIZE) + 3.0, torch.ones(number, 1, dtype=torch.bool)
    with torch.no_grad():
        roles = pooling(vectors, own)
        found = pooling.distinctive(vectors[:, 0], torch.float32)
        expected = (roles - roles.mean(dim=0)).unbind(1)
        for one in expected:
            torch.testing.assert_close(found, one, atol=1e-5, rtol=1e-5)
        rounded = pooling.distinctive(vectors[:, 0], torch.bfloat16)
    assert rounded.dtype == torch.bfloat16
    assert float((rounded - found).norm() / found.norm()) < 2**-7
