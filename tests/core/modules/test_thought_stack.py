"""The stack of thoughts: what tokens see of it, what trains it, and how its losses are reckoned by hand.

Shapes: R rows, M thoughts, S tokens of a segment, D width, H rows of a thought, C numbers of each.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dreamlm.core.modules.ring import Ring
from dreamlm.core.modules.thought_losses import thought_losses
from dreamlm.core.modules.thought_stack import ThoughtStack
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.nn.signal import Carry, Signal
from dreamlm.core.objectives.causal import CausalObjective
from dreamlm.core.objectives.diffusion import DiffusionObjective
from dreamlm.core.objectives.objective import Objective

VOCAB, SEGMENT, DIMS = 23, 4, (2, 3, 2)
OBJECTIVES = {
    "causal": partial(CausalObjective, label_smoothing=0.0),
    "diffusion": partial(DiffusionObjective, label_smoothing=0.0, filler_id=1),
}


def decoder(kind: str = "causal", **settings: object) -> DreamLM:
    module = {"type": "thought_stack", "thought_dims": DIMS, "stack_size": 3, **settings}
    values = {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "seq_length": 16, "segment_length": SEGMENT}
    trunk = {"diffusion": "block_diffusion"} if kind == "diffusion" else {}
    torch.manual_seed(0)
    model = DreamLM.Config.model_validate({**values, **trunk, "modules": [module]}).build(VOCAB).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) / math.sqrt(parameter.shape[-1]))
    return model


def module_of(model: DreamLM) -> ThoughtStack:
    module = model.cognition[0]
    assert isinstance(module, ThoughtStack)
    return module


def window(rows: int = 3, length: int = 17) -> Tensor:
    return torch.randint(1, VOCAB, (rows, length), generator=torch.Generator().manual_seed(1))


def segments(model: DreamLM, tokens: Tensor, carry: Carry | None = None) -> list[Signal]:
    return [*model.segments(tokens, torch.zeros_like(tokens), carry or model.start(len(tokens)), boundaries=False)]


def ring_of(carry: Carry) -> Ring:
    ring: Ring = carry.states["thought_stack"].stacks["thoughts"]
    return ring


def with_thoughts(carry: Carry, newest: Tensor) -> Carry:
    state = carry.states["thought_stack"]
    stacks = {"thoughts": Ring.of(newest, ring_of(carry).count_B)}
    return replace(carry, states={**carry.states, "thought_stack": replace(state, stacks=stacks)})


def test_the_newest_thoughts_are_kept_in_their_order() -> None:
    model, tokens = decoder(), window(length=16)
    with torch.no_grad():
        signals = segments(model, tokens)
    newest = [ring_of(signal.carry).ordered()[:, -1] for signal in signals]
    assert torch.equal(ring_of(signals[-1].carry).ordered(), torch.stack(newest[1:], dim=1))
    assert newest[0].shape == (3, *DIMS)
    assert all(bool((thought.abs() < 1).all()) for thought in newest)
    assert [int(ring_of(signal.carry).count_B[0]) for signal in signals] == [1, 2, 3, 3]


@pytest.mark.parametrize("change", ["swapped", "oldest", "newest"])
def test_tokens_see_every_thought_and_their_order(change: str) -> None:
    model, tokens = decoder(), window(length=16)
    with torch.no_grad():
        carry = segments(model, tokens[:, :12])[-1].carry
        newest = ring_of(carry).ordered()
        changed = newest.clone()
        if change == "swapped":
            changed = newest[:, [1, 0, 2]]
        else:
            changed[:, 0 if change == "oldest" else -1] *= -1
        logits = [
            model.logits(segments(model, tokens[:, 12:], with_thoughts(carry, some))[0].hidden)
            for some in (newest, changed)
        ]
    assert (logits[0] - logits[1]).abs().amax(dim=(1, 2)).min() > 1e-3


def test_encoding_at_once_is_encoding_slot_by_slot() -> None:
    module = module_of(decoder())
    thoughts, count_B = torch.randn(3, 3, *DIMS), torch.tensor([3, 1, 2])
    with torch.no_grad():
        slots_BMD, there_BM = module.encode(thoughts, count_B)
    assert there_BM.tolist() == [[True] * 3, [False, False, True], [False, True, True]]
    for row, count in enumerate(count_B.tolist()):
        assert torch.allclose(slots_BMD[row, 3 - count :], slot_by_slot(module, thoughts[row, 3 - count :]), atol=1e-5)


@torch.no_grad()
def slot_by_slot(module: ThoughtStack, thoughts: Tensor) -> Tensor:
    """Each thought by itself, and then each attending to the others head by head."""
    vectors = []
    for age, thought in enumerate(reversed(thoughts)):
        rows_HD = torch.stack([module.row_in @ row.flatten() for row in thought]) + module.row_place
        pooled = []
        for head in torch.arange(rows_HD.shape[1]).chunk(module.num_heads):
            scores_H = rows_HD[:, head] @ module.pool_query[0, head] / math.sqrt(len(head))
            pooled.append(torch.softmax(scores_H, dim=0) @ rows_HD[:, head])
        vectors.append(torch.cat(pooled) + module.age[age])
    slots_MD = torch.stack(vectors[::-1])
    normal_MD = module.slot_norm(slots_MD)
    mixed = []
    for head in torch.arange(slots_MD.shape[1]).chunk(module.num_heads):
        query, key, value = (
            normal_MD @ part.weight[head].T for part in (module.slot_query, module.slot_key, module.slot_value)
        )
        mixed.append(torch.softmax(query @ key.T / math.sqrt(len(head)), dim=1) @ value)
    return slots_MD + torch.cat(mixed, dim=1)


def written_thoughts(objective: Objective, tokens: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Each thought of a step, and the gradient that the language loss alone gives it."""
    module, thoughts = module_of(objective.model), []
    own = module.write

    def write(*given: object) -> object:
        found = own(*given)
        found.pushed["thoughts"].retain_grad()
        thoughts.append(found.pushed["thoughts"])
        return found

    module.write = write  # type: ignore[method-assign]
    torch.manual_seed(3)
    objective(tokens, torch.zeros_like(tokens), False).objectives["token"].backward()
    return ((thought, thought.grad) for thought in thoughts)


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_the_language_loss_of_later_segments_trains_a_thought(kind: str) -> None:
    gradients = [gradient for _, gradient in written_thoughts(OBJECTIVES[kind](decoder(kind)), window())]
    assert len(gradients) >= 3
    for gradient in gradients[:3]:
        assert gradient is not None
        assert gradient.abs().flatten(1).sum(dim=1).min() > 0


def test_only_the_newest_thoughts_are_trained_directly() -> None:
    """With a reach of one, a segment that sees the first thought as an older one trains it through the second only."""
    tokens = window(length=13)

    def reached(bptt: int | None) -> Tensor:
        model = decoder(thought_bptt=bptt)
        with torch.no_grad():
            module_of(model).write_last.weight.zero_()  # else the next thought, which is near, is made of it
        objective = OBJECTIVES["causal"](model)
        real = objective.model.head.forward

        def last_segment(hidden_ND: Tensor, target_N: Tensor, *rest: object) -> tuple[Tensor, Tensor]:
            kept_N = torch.where(torch.arange(len(target_N)) % 12 >= 8, target_N, -1)
            return real(hidden_ND, kept_N, *rest)

        model.head.forward = last_segment  # type: ignore[method-assign]
        [(_, first), *_] = written_thoughts(objective, tokens)
        return first

    near, far = reached(1).abs().sum(), reached(None).abs().sum()
    assert 0 < near < far / 2


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_thoughts_are_the_documents_own(kind: str) -> None:
    model, tokens = decoder(kind), window(1, 16)
    documents = torch.tensor([[0] * 8 + [1] * 8])
    with torch.no_grad():
        packed = [*model.segments(tokens, documents, model.start(1))]
        alone = segments(model, tokens[:, 8:])
    assert [int(ring_of(signal.carry).count_B[0]) for signal in packed] == [1, 2, 1, 2]
    assert torch.allclose(
        ring_of(packed[-1].carry).ordered()[:, 1:], ring_of(alone[-1].carry).ordered()[:, 1:], atol=1e-5
    )


@pytest.mark.parametrize(("noise", "dropout"), [(0.5, 0.0), (0.0, 0.5), (0.0, 0.0)])
def test_noise_and_dropout_are_for_training_only(noise: float, dropout: float) -> None:
    model, tokens = decoder(thought_noise=noise, thought_dropout=dropout), window(length=16)
    with torch.no_grad():
        steady = [segments(model, tokens)[-1].hidden for _ in range(2)]
        model.train()
        moving = [segments(model, tokens)[-1].hidden for _ in range(2)]
    assert torch.equal(*steady)
    assert torch.equal(*moving) == (noise == dropout == 0)


def test_losses_weigh_what_they_are_documented_to() -> None:
    assert ThoughtStack.Config().loss_weights == {
        "consistency": 0.1,
        "diversity": 0.01,
        "sparsity": 0.01,
        "contrastive": 0.02,
        "next_thought": 0.05,
    }


def test_the_temperature_of_contrast_is_the_configured_one() -> None:
    tokens = window(length=16)

    def found(temperature: float) -> Mapping[str, Tensor]:
        with torch.no_grad():
            return segments(decoder(contrastive_temperature=temperature), tokens)[1].losses

    cold, hot = found(0.1), found(10.0)
    changed = {name for name, loss in cold.items() if not torch.allclose(loss, hot[name])}
    assert changed == {"thought_stack.contrastive"}


def test_losses_by_hand() -> None:
    new = torch.tensor([[[1.0, 0.0]], [[0.0, 0.5]], [[0.5, 0.5]], [[0.2, 0.1]]])
    expected = torch.tensor([[[0.0, 2.0]], [[0.0, 1.0]], [[1.0, 0.0]], [[1.0, 1.0]]])
    stack = torch.tensor(
        [[[0.0, 1.0], [1.0, 0.0]], [[0.0, 0.0], [1.0, 0.0]], [[3.0, 3.0], [3.0, 3.0]], [[1.0, 0.0]] * 2]
    )
    there = torch.tensor([[True, True], [False, True], [False, False], [True, True]])
    writes = torch.tensor([True, True, True, False])
    found = thought_losses(new, expected, stack, there, writes, temperature=0.5)
    assert found["consistency"].tolist() == pytest.approx([0.0, 1.0, 0.0, 0.0])
    assert found["diversity"].tolist() == pytest.approx([(0 + 1 + 0) / 3, 0.0, 0.0, 0.0])
    assert found["sparsity"].tolist() == pytest.approx([0.5, 0.25, 0.5, 0.0])
    assert found["next_thought"].tolist() == pytest.approx([1.0, 0.0, 0.0, 0.0])
    # Rows 0 and 1 take part; the last thoughts of both point the same way, so each finds its own by chance.
    assert found["contrastive"].tolist() == pytest.approx([math.log(2), math.log(2), 0.0, 0.0])
    turned = stack.clone()
    turned[1, 1] = torch.tensor([0.0, 1.0])
    contrast = thought_losses(new, expected, turned, there, writes, temperature=0.5)["contrastive"]
    assert contrast[0].item() == pytest.approx(-math.log(math.exp(2) / (math.exp(2) + 1)))


def test_a_target_is_not_moved_towards_what_was_expected() -> None:
    new = torch.randn(4, 2, 3, requires_grad=True)
    expected = torch.randn(4, 2, 3, requires_grad=True)
    everywhere = torch.ones(4, 2, dtype=torch.bool)
    found = thought_losses(new, expected, torch.randn(4, 2, 6), everywhere, everywhere[:, 0], 0.1)
    assert torch.autograd.grad(found["next_thought"].sum(), new, allow_unused=True, retain_graph=True)[0] is None
    (gradient,) = torch.autograd.grad(found["next_thought"].sum(), expected)
    assert gradient.abs().sum() > 0


def test_contrast_is_the_cross_entropy_of_finding_ones_own() -> None:
    torch.manual_seed(0)
    new, stack = torch.randn(5, 2, 3), torch.randn(5, 2, 6)
    everywhere = torch.ones(5, 2, dtype=torch.bool)
    found = thought_losses(new, new, stack, everywhere, everywhere[:, 0], 0.3)["contrastive"]
    for row in range(5):
        likeness = torch.tensor(
            [F.cosine_similarity(new[row].flatten(), stack[other, -1], dim=0) for other in range(5)]
        )
        assert found[row].item() == pytest.approx(-F.log_softmax(likeness / 0.3, dim=0)[row].item(), abs=1e-5)
