"""The diffusion objective: what may see what, what it estimates, and that it gives no answer away.

Shapes: B rows, X tokens of a window, N slots.
"""

import itertools
import math
from collections.abc import Sequence
from typing import get_args

import pytest
import torch
from torch import Tensor

from dreamlm.core.evaluation.bound import bound
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.nn.denoising import denoise
from dreamlm.core.nn.noise import SCHEDULES, NoiseName
from dreamlm.core.nn.signal import Signal
from dreamlm.core.nn.slots import Slots
from dreamlm.core.objectives import blocks as blocks_module
from dreamlm.core.objectives.blocks import Blocks
from dreamlm.core.objectives.causal import CausalObjective
from dreamlm.core.objectives.diffusion import DiffusionObjective, blocks_of, fill_in, read_clean

VOCAB, END, FILLER = 32, 0, 31
DOCUMENTS = torch.tensor([[0] * 17, [0] * 6 + [1] * 11, [0] * 3 + [1] * 9 + [2] * 5, [0] * 12 + [-1] * 5])
MODULES = ((), ("segment_summary",), ("thought_stack",))


def model(block: int, modules: tuple[str, ...] = (), schedule: NoiseName = "linear", **settings: object) -> DreamLM:
    values = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "seq_length": 16, **settings}
    segments = {"modules": modules, "segment_length": 8} if modules else {}
    diffusion = {"block_size": block, "noise_schedule": schedule}
    torch.manual_seed(0)
    built = DreamLM.Config.model_validate({**values, **segments, "diffusion": diffusion}).build(VOCAB).eval()
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.copy_(torch.randn_like(parameter) / math.sqrt(parameter.shape[-1]))
    return built


def window(rows: int = 4) -> Tensor:
    return torch.randint(1, FILLER, (rows, 17), generator=torch.Generator().manual_seed(1))


def hidden(diffuser: DreamLM, tokens_BX: Tensor, documents_BX: Tensor, masked_BN: Tensor) -> Tensor:
    """Vectors of all slots."""
    blocks = blocks_of(diffuser, tokens_BX, documents_BX, FILLER)
    found: Tensor = fill_in(diffuser, blocks, masked_BN, read_clean(diffuser, tokens_BX, documents_BX, True)).hidden
    return found.detach()


@pytest.mark.parametrize("modules", MODULES, ids=str)
def test_with_blocks_of_one_token_it_is_the_causal_model(modules: tuple[str, ...]) -> None:
    diffuser, tokens = model(1, modules), window()
    with torch.no_grad():
        causal = CausalObjective(diffuser, 0.1)(tokens, DOCUMENTS, True)
        diffusion = DiffusionObjective(diffuser, 0.1, FILLER)(tokens, DOCUMENTS, True)
        exact = bound(diffuser, tokens, DOCUMENTS, True, FILLER, samples=3, seed=0)
    assert torch.allclose(diffusion.nll, causal.nll, rtol=1e-6)
    assert torch.allclose(diffusion.objectives["token"], causal.objectives["token"], rtol=1e-6)
    assert exact.nll_BT.sum().item() == pytest.approx(causal.nll.item(), rel=1e-6)
    assert exact.variance_B.max() < 1e-9


def test_blocks_of_one_token_have_no_mask_and_train_every_weight() -> None:
    learner, causal = model(1), model(1).config.model_copy(update={"diffusion": None})
    assert learner.state_dict().keys() == causal.build(VOCAB).state_dict().keys()
    DiffusionObjective(learner, 0.0, FILLER)(window(), DOCUMENTS, True).objectives["token"].backward()
    assert all(one.grad is not None and one.grad.any() for one in learner.parameters())
    assert model(2).mask_vector is not None


@pytest.mark.parametrize("modules", MODULES, ids=str)
def test_a_hidden_token_changes_nothing_in_its_block_or_before(modules: tuple[str, ...]) -> None:
    diffuser, tokens, documents = model(4, modules), window(), DOCUMENTS[:1].expand(4, -1)
    masked = torch.zeros(4, 16, dtype=torch.bool)
    masked[:, [4, 5, 9]] = True
    before = hidden(diffuser, tokens, documents, masked)
    for target in (4, 5, 9):
        changed = tokens.clone()
        changed[:, target + 1] = (tokens[:, target + 1] + 3) % FILLER
        after = hidden(diffuser, changed, documents, masked)
        end = (target // 4 + 1) * 4
        assert torch.equal(before[:, :end], after[:, :end]), f"the token behind slot {target} is seen under its mask"
        assert not torch.allclose(before[:, end:], after[:, end:]), "later blocks do not see it"


def test_a_block_is_seen_in_both_directions_and_the_next_block_is_not() -> None:
    diffuser, tokens, documents = model(4), window(), DOCUMENTS[:1].expand(4, -1)
    nothing = torch.zeros(4, 16, dtype=torch.bool)
    before = hidden(diffuser, tokens, documents, nothing)
    changed = tokens.clone()
    changed[:, 7] = (tokens[:, 7] + 3) % FILLER
    after = hidden(diffuser, changed, documents, nothing)
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.allclose(before[:, 4], after[:, 4])


@pytest.mark.parametrize("modules", MODULES, ids=str)
def test_all_blocks_at_once_are_each_block_alone(modules: tuple[str, ...]) -> None:
    """What training computes in one pass is what generation computes: the block's slots behind a carry of its past."""
    diffuser, tokens, documents = model(4, modules), window(1), DOCUMENTS[:1]
    masked = torch.rand(1, 16, generator=torch.Generator().manual_seed(2)) < 0.5
    at_once = hidden(diffuser, tokens, documents, masked)
    slots = blocks_of(diffuser, tokens, documents, FILLER).slots(masked, diffuser.mask_id)
    for begin in range(0, 16, 4):
        with torch.no_grad():
            carry = diffuser.start(1)
            if begin:
                carry = diffuser(tokens[:, :begin], documents[:, :begin], carry, boundaries=False).carry
            own = slice(begin, begin + 4)
            parts = (slots.tokens_BN, slots.documents_BN, slots.position_BN, slots.begin_BN)
            for _ in range(2):  # a pass leaves nothing behind
                alone = denoise(diffuser, Slots(*(part[:, own] for part in parts)), carry, [carry]).hidden
        assert torch.allclose(alone, at_once[:, own], atol=1e-5)


def exact_bound(diffuser: DreamLM, tokens_BX: Tensor, documents_BX: Tensor) -> float:
    """Every way to hide tokens, of blocks that do not see one another's masks: mean over k of n/k times the losses."""
    blocks = blocks_of(diffuser, tokens_BX, documents_BX, FILLER)
    clean = read_clean(diffuser, tokens_BX, documents_BX, True)
    total = 0.0
    for unit, size in enumerate(blocks.size_U.tolist()):
        places = (blocks.unit_BN == unit).nonzero().tolist()
        for count in range(1, size + 1):
            choices = list(itertools.combinations(places, count))
            for chosen in choices:
                masked = torch.zeros_like(blocks.given_BN)
                masked[tuple(torch.tensor(chosen).T)] = True
                vectors = fill_in(diffuser, blocks, masked, clean).hidden[masked]
                nll = diffuser.head.token_nll(vectors, blocks.target_BN[masked]).sum().item()
                total += nll / count / len(choices)
    return total


@pytest.fixture(scope="module")
def small() -> tuple[Tensor, Tensor, float]:
    documents = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1, 1]])
    tokens = window(1)[:, :9]
    with torch.no_grad():
        return tokens, documents, exact_bound(model(4, seq_length=8), tokens, documents)


@pytest.mark.parametrize("schedule", get_args(NoiseName))
def test_every_schedule_estimates_the_bound_that_all_masks_give(
    schedule: NoiseName, small: tuple[Tensor, Tensor, float]
) -> None:
    tokens, documents, exact = small
    objective = DiffusionObjective(model(4, schedule=schedule, seq_length=8), 0.0, FILLER)
    torch.manual_seed(3)
    with torch.no_grad():
        many = tokens.expand(400, -1), documents.expand(400, -1)
        found = torch.stack([objective(*many, True).nll / 400 for _ in range(10)])
    error = max(found.std().item() / math.sqrt(len(found)), 1e-3 * exact)
    assert found.mean().item() == pytest.approx(exact, abs=5 * error)
    assert 5 * error < 0.05 * exact


def watch_filling(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Blocks, Tensor, Signal]]:
    """What the objective will fill in: the blocks, which targets are hidden, and the noisy path's signal."""
    seen: list[tuple[Blocks, Tensor, Signal]] = []

    def watched(diffuser: DreamLM, blocks: Blocks, masked_BN: Tensor, clean: Sequence[Signal]) -> Signal:
        seen.append((blocks, masked_BN, fill_in(diffuser, blocks, masked_BN, clean)))
        return seen[-1][-1]

    monkeypatch.setattr("dreamlm.core.objectives.diffusion.fill_in", watched)
    return seen


@pytest.mark.parametrize("schedule", get_args(NoiseName))
def test_masks_come_as_often_as_the_schedule_says_for_times_in_equal_parts(
    schedule: NoiseName, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As every part of time has one block, the number of blocks with so many masks hardly varies."""
    seen, blocks = watch_filling(monkeypatch), 256
    tokens, documents = window(1).expand(blocks // 4, -1), DOCUMENTS[:1].expand(blocks // 4, -1)
    torch.manual_seed(3)
    with torch.no_grad():
        DiffusionObjective(model(4, schedule=schedule), 0.0, FILLER)(tokens, documents, True)
    [(layout, masked_BN, _)] = seen
    masks_U = torch.bincount(layout.unit_BN[masked_BN], minlength=blocks)
    expected = SCHEDULES[schedule].time(torch.arange(5, dtype=torch.float64) / 4).diff() * blocks
    assert (torch.bincount(masks_U, minlength=5)[1:] - expected).abs().max() <= 1


def test_what_both_paths_pass_counts_half_on_each_and_what_one_passes_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, diffuser = watch_filling(monkeypatch), model(4, ("thought_stack",), feed_forward="moe")
    with torch.no_grad():
        found = DiffusionObjective(diffuser, 0.0, FILLER)(window(), DOCUMENTS, True).objectives
        clean = [signal.losses for signal in read_clean(diffuser, window(), DOCUMENTS, True)]
    [(layout, _, noisy)] = seen
    assert len(clean) == 2
    targets, slots = 3 * 16 + 11, int((layout.documents_BN >= 0).sum())
    assert slots > targets  # documents end inside blocks
    router, thought = (sum(losses[name] for losses in clean) for name in ("moe_balance", "thought_stack.sparsity"))
    by_clean, by_noisy = router.item() / targets, noisy.losses["moe_balance"].item() / slots
    assert found["moe_balance"].item() == pytest.approx((by_clean + by_noisy) / 2 * targets)
    assert by_noisy != pytest.approx(by_clean, rel=1e-3)
    assert found["thought_stack.sparsity"].item() == pytest.approx(thought.item())
    assert thought.item() > 0


EVEN = {"type": "moe", "num_experts": 2, "top_k": 2}
"""Everything goes to all experts: their balance is 1 for each token."""


@pytest.mark.parametrize("documents", [DOCUMENTS, torch.arange(17).expand(4, -1) // 3], ids=["few", "many"])
def test_losses_of_layers_are_sums_over_targets_whatever_else_the_layers_read(documents: Tensor) -> None:
    diffuser = model(4, feed_forward=EVEN)
    for objective in (CausalObjective(diffuser, 0.0), DiffusionObjective(diffuser, 0.0, FILLER)):
        losses = objective(window(), documents, True)
        assert (losses.objectives["moe_balance"] / losses.tokens).item() == pytest.approx(1, rel=1e-5)


def test_the_evaluated_bound_is_exact_in_the_mean_and_knows_its_error(small: tuple[Tensor, Tensor, float]) -> None:
    tokens, documents, exact = small
    diffuser = model(4, seq_length=8)
    with torch.no_grad():
        found = [bound(diffuser, tokens, documents, True, FILLER, samples=4, seed=seed) for seed in range(60)]
    sums = torch.stack([one.nll_BT.sum() for one in found])
    assert sums.mean().item() == pytest.approx(exact, abs=4 * sums.std().item() / math.sqrt(60))
    told = torch.stack([one.variance_B[0] for one in found]).mean().sqrt().item()
    assert 0.9 < told / sums.std().item() < 3.0  # stratified times are better than the spread of samples tells


def test_the_bound_of_a_window_is_its_own() -> None:
    diffuser, tokens = model(4), window()
    whole = bound(diffuser, tokens, DOCUMENTS, True, FILLER, samples=2, seed=0)
    for row in range(4):
        alone = bound(diffuser, tokens[row : row + 1], DOCUMENTS[row : row + 1], True, FILLER, samples=2, seed=0)
        assert torch.allclose(alone.nll_BT[0], whole.nll_BT[row], rtol=1e-5)
    for length in (12, 13, 15):  # how much padding is behind the text does not matter, none included
        trimmed = bound(diffuser, tokens[3:, :length], DOCUMENTS[3:, :length], True, FILLER, samples=2, seed=0)
        assert torch.allclose(trimmed.nll_BT[0], whole.nll_BT[3, : length - 1], rtol=1e-5)
    other = bound(diffuser, tokens, DOCUMENTS, True, FILLER, samples=2, seed=1)
    assert not torch.allclose(other.nll_BT, whole.nll_BT)


def random_documents(rows: int, length: int, end: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Uniform tokens, and after each the same chance that the document ends."""
    ends = torch.rand(rows, length + 1, generator=generator) < end
    tokens = torch.where(ends, END, torch.randint(1, 8, (rows, length + 1), generator=generator))
    tokens[:, 0] = END
    return tokens, (tokens == END).long().cumsum(1) - 1


def learned_cost(end: float) -> float:
    """Nats per token of new random documents, after some learning from others."""
    config = {"hidden_size": 32, "num_layers": 1, "num_heads": 2, "seq_length": 16, "diffusion": {"block_size": 8}}
    torch.manual_seed(0)
    learner = DreamLM.Config.model_validate(config).build(9)
    objective = DiffusionObjective(learner, 0.0, 8)
    optimizer = torch.optim.AdamW(learner.parameters(), lr=1e-2, weight_decay=0.0)
    generator = torch.Generator().manual_seed(1)
    for _ in range(150):
        losses = objective(*random_documents(32, 16, end, generator), True)
        (losses.objectives["token"] / losses.tokens).backward()
        optimizer.step()
        optimizer.zero_grad()
    tokens, documents = random_documents(1024, 16, end, generator)
    with torch.no_grad():
        found = bound(learner, tokens, documents, True, 8, samples=4, seed=0)
    return found.nll_BT.sum().item() / tokens[:, 1:].numel()


def test_where_documents_end_is_not_given_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody can know when the next document ends; a model that saw how far its block goes would."""
    end = 0.15
    entropy = -end * math.log(end) - (1 - end) * math.log((1 - end) / 7)
    assert entropy - 0.01 < learned_cost(end) < entropy + 0.25
    # The planted defect: blocks that stop where their document does.
    without = blocks_module._padding
    monkeypatch.setattr(blocks_module, "_padding", lambda *layout: [part[:, :0] for part in without(*layout)])
    assert learned_cost(end) < entropy - 0.03
