"""What augmentation does to inputs, and that it does nothing else.

Shapes: B rows, T inputs, X = T + 1 tokens of a window.
"""

import math
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from dreamlm.core.errors import UserMistake
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.objectives import diffusion as diffusion_module
from dreamlm.core.objectives.augmentation import UNTOUCHED, Augmentation, Disturbed, Inputs, early, shuffled
from dreamlm.core.objectives.causal import CausalObjective
from dreamlm.core.objectives.choose import objective_of
from dreamlm.core.objectives.diffusion import DiffusionObjective, blocks_of
from dreamlm.core.objectives.objective import Losses

VOCAB, END, PADDING = 23, 0, 5
NOTHING = {"token_substitution": 0.0, "token_dropout": 0.0, "thought_noise": 0.0, "local_shuffle": 1}


def decoder(**options: Any) -> DreamLM:
    torch.manual_seed(0)
    values = {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "seq_length": 16, "mask_vector": True, **options}
    model = DreamLM.Config.model_validate(values).build(VOCAB)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) / math.sqrt(parameter.shape[-1]))
    return model


MODEL = decoder()


def disturbed(model: DreamLM = MODEL, **options: Any) -> Augmentation:
    return Disturbed.Config.model_validate({"probability": 1.0, **options}).build(model, VOCAB, END, PADDING)


def only(model: DreamLM = MODEL, **options: Any) -> Augmentation:
    """One way to disturb."""
    return disturbed(model, **{**NOTHING, **options})


def read(augmentation: Augmentation, window: tuple[Tensor, Tensor], seed: int = 0, model: DreamLM = MODEL) -> Inputs:
    torch.manual_seed(seed)
    tokens_BX, documents_BX = window
    return augmentation.inputs(model, tokens_BX[:, :-1], documents_BX[:, :-1])


@st.composite
def windows(draw: st.DrawFn, most: int = 40) -> tuple[Tensor, Tensor]:
    """Packed documents that each open with the end token, the first one perhaps cut; then perhaps padding."""
    rows, length = draw(st.integers(1, 4)), draw(st.integers(3, most))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    tokens = torch.randint(0, VOCAB, (rows, length), generator=generator)
    tokens[(tokens == END) | (tokens == PADDING)] = 7
    tokens[torch.rand(rows, length, generator=generator) < draw(st.sampled_from([0.0, 0.1, 0.5]))] = END
    documents = (tokens == END).long().cumsum(1)
    documents = documents - documents[:, :1]
    padded = torch.arange(length) >= length - draw(st.integers(0, length - 1))
    return torch.where(padded, PADDING, tokens), torch.where(padded, -1, documents).to(torch.int32)


def big_window() -> tuple[Tensor, Tensor]:
    """200,000 tokens without an end or padding."""
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(6, VOCAB, (200, 1001), generator=generator)
    return tokens, torch.zeros_like(tokens, dtype=torch.int32)


@given(window=windows(), seed=st.integers(0, 1000))
def test_padding_and_what_opens_a_document_stay_and_nothing_is_written_over(
    window: tuple[Tensor, Tensor], seed: int
) -> None:
    tokens_BX, documents_BX = (one.clone() for one in window)
    hard = disturbed(token_substitution=0.5, token_dropout=0.5)
    found_BT = read(hard, window, seed).tokens_BT
    assert torch.equal(window[0], tokens_BX)
    assert torch.equal(window[1], documents_BX)
    kept_BT = (documents_BX[:, :-1] < 0) | (tokens_BX[:, :-1] == END)
    assert torch.equal(found_BT[kept_BT], tokens_BX[:, :-1][kept_BT])
    assert not (found_BT[~kept_BT] == END).any()
    assert not (found_BT[~kept_BT] == PADDING).any()


@given(window=windows(), seed=st.integers(0, 1000), size=st.integers(1, 9))
def test_documents_keep_their_tokens_when_they_are_shuffled(
    window: tuple[Tensor, Tensor], seed: int, size: int
) -> None:
    tokens_BT, documents_BT = (one[:, :-1] for one in window)
    found_BT = read(only(local_shuffle=size), window, seed).tokens_BT
    for row, documents in enumerate(documents_BT.tolist()):
        for document in set(documents):
            for begin in range(0, len(documents), size):
                places = [c for c in range(begin, min(begin + size, len(documents))) if documents[c] == document]
                assert Counter(found_BT[row, places].tolist()) == Counter(tokens_BT[row, places].tolist())


@given(window=windows(), seed=st.integers(0, 1000), size=st.integers(2, 9))
def test_no_token_is_asked_for_that_was_shown(window: tuple[Tensor, Tensor], seed: int, size: int) -> None:
    """Token by token; and the rest of a row counts as much as the whole row would."""
    tokens_BX, documents_BX = window
    documents_BT, length = documents_BX[:, :-1], documents_BX.shape[1] - 1
    torch.manual_seed(seed)
    place_BT = shuffled(documents_BT, (documents_BT >= 0) & (tokens_BX[:, :-1] != END), size, None)
    real_BT = (documents_BX[:, 1:] >= 0) & (documents_BT >= 0)
    importance_BT = Inputs(tokens_BX[:, :-1], early(place_BT)).importance(real_BT)
    assert importance_BT is not None
    for row in range(len(tokens_BX)):
        place = place_BT[row].tolist()
        real = [c for c in range(length) if real_BT[row, c]]
        asked = [c for c in real if c + 1 == length or place[c + 1] > c]
        expected = [len(real) / len(asked) if c in asked else 0.0 for c in range(length)]
        assert importance_BT[row].tolist() == pytest.approx(expected)


def test_all_orders_of_a_window_are_alike() -> None:
    documents_BT = torch.zeros(60_000, 3, dtype=torch.int32)
    torch.manual_seed(0)
    place_BT = shuffled(documents_BT, documents_BT >= 0, 3, None)
    counts = Counter(map(tuple, place_BT.tolist()))
    assert len(counts) == 6
    assert all(abs(count - 10_000) < 5 * math.sqrt(10_000) for count in counts.values())


def test_shares_hit_in_the_mean_and_masks_are_never_real_ids() -> None:
    window = big_window()
    found_BT = read(disturbed(local_shuffle=1), window).tokens_BT
    before_BT = window[0][:, :-1]
    assert (found_BT == MODEL.mask_id).float().mean().item() == pytest.approx(0.1, abs=0.004)
    real_BT = found_BT < VOCAB
    assert torch.equal(found_BT[~real_BT], torch.full_like(found_BT[~real_BT], MODEL.mask_id))
    other = (found_BT != before_BT) & real_BT
    # One of the 21 ids that are drawn from is the token's own.
    assert other.float().mean().item() == pytest.approx(0.05 * 20 / 21, abs=0.004)
    drawn = Counter(found_BT[other].tolist())
    assert set(drawn) == set(range(VOCAB)) - {END, PADDING}


def test_rows_are_disturbed_with_the_probability_and_others_not_at_all() -> None:
    tokens = torch.randint(6, VOCAB, (20_000, 13), generator=torch.Generator().manual_seed(0))
    found = read(
        disturbed(probability=0.1, token_dropout=1.0, token_substitution=0.0), (tokens, torch.zeros_like(tokens))
    )
    touched_B = (found.tokens_BT != tokens[:, :-1]).any(dim=1)
    assert touched_B.float().mean().item() == pytest.approx(0.1, abs=0.01)
    importance_BT = found.importance(torch.ones_like(found.tokens_BT, dtype=torch.bool))
    assert importance_BT is not None
    assert (importance_BT[~touched_B] == 1).all()


@pytest.mark.parametrize("share", ["token_substitution", "token_dropout"])
def test_a_share_that_is_off_leaves_its_tokens(share: str) -> None:
    window = big_window()
    found_BT = read(only(**{share: 0.3}), window).tokens_BT
    assert bool((found_BT == MODEL.mask_id).any()) == (share == "token_dropout")
    assert (found_BT != window[0][:, :-1]).float().mean().item() == pytest.approx(0.3, abs=0.02)


def naive_loss(model: DreamLM, tokens_BX: Tensor, documents_BX: Tensor) -> Tensor:
    """What the causal objective was before there was augmentation."""
    signal = model(tokens_BX[:, :-1], documents_BX[:, :-1], model.start(len(tokens_BX), records=False), True)
    real_BT = (documents_BX[:, 1:] >= 0) & (documents_BX[:, :-1] >= 0)
    target_BT = torch.where(real_BT, tokens_BX[:, 1:], -1)
    loss: Tensor = model.head(signal.hidden.flatten(0, 1), target_BT.flatten(), 0.1)[0]
    return loss


def small_window() -> tuple[Tensor, Tensor]:
    tokens = torch.randint(6, VOCAB, (4, 17), generator=torch.Generator().manual_seed(1))
    return tokens, torch.tensor([[0] * 17, [0] * 6 + [1] * 11, [0] * 12 + [-1] * 5, [0] * 17], dtype=torch.int32)


@pytest.mark.parametrize("augmentation", [UNTOUCHED, only(), disturbed(probability=0.0)], ids=["off", "none", "never"])
def test_without_augmentation_losses_are_the_same_bits(augmentation: Augmentation) -> None:
    model, window = decoder(dropout=0.0), small_window()
    found = CausalObjective(model, 0.1, augmentation)(*window, True).objectives["token"]
    assert torch.equal(found, naive_loss(model, *window))


def test_off_draws_no_random_number_and_so_changes_no_dropout() -> None:
    model, window = decoder(dropout=0.3), small_window()
    torch.manual_seed(7)
    expected = naive_loss(model, *window)
    after = torch.get_rng_state()
    torch.manual_seed(7)
    assert torch.equal(CausalObjective(model, 0.1)(*window, True).objectives["token"], expected)
    assert torch.equal(torch.get_rng_state(), after)


def test_evaluation_is_never_disturbed() -> None:
    model, window = decoder().eval(), small_window()
    objective = objective_of(model, 0.1, END, disturbed(token_dropout=0.9))
    before = torch.get_rng_state()
    assert torch.equal(objective(*window, True).objectives["token"], naive_loss(model, *window))
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(
        objective_of(model.train(), 0.1, END, disturbed())(*window, True).nll, naive_loss(model, *window)
    )


def targets_asked(objective: CausalObjective | DiffusionObjective, window: tuple[Tensor, Tensor]) -> list[Tensor]:
    """What the head is called with behind its vectors."""
    asked: list[Tensor] = []

    def look(head: object, given: tuple[Any, ...]) -> None:
        asked.extend(one for one in given[1:] if isinstance(one, Tensor))

    torch.manual_seed(2)
    handle = objective.model.head.register_forward_pre_hook(look)
    objective(*window, True)
    handle.remove()
    return asked


def test_a_causal_model_is_asked_for_the_true_tokens() -> None:
    window = small_window()
    plain, augmented = (
        targets_asked(CausalObjective(MODEL, 0.0, one), window)[0] for one in (UNTOUCHED, disturbed(token_dropout=0.9))
    )
    assert torch.equal(plain, augmented)


def test_every_row_counts_its_real_targets_however_it_is_shuffled() -> None:
    window = small_window()
    importance_N = targets_asked(CausalObjective(MODEL, 0.0, disturbed()), window)[1]
    assert importance_N.view(4, -1).sum(dim=1).tolist() == pytest.approx([16, 16, 11, 16])
    assert (importance_N == 0).any()


def test_the_slots_of_a_diffusion_model_and_their_targets_are_untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    model, window = decoder(diffusion={"block_size": 4}), small_window()
    filled = []
    original = diffusion_module.fill_in

    def watched(model: DreamLM, blocks: Any, masked_BN: Tensor, clean: Any) -> Any:
        filled.append((blocks, masked_BN, clean[-1].hidden.detach()))
        return original(model, blocks, masked_BN, clean)

    monkeypatch.setattr(diffusion_module, "fill_in", watched)
    for augmentation in (UNTOUCHED, disturbed(model)):
        torch.manual_seed(4)
        DiffusionObjective(model, 0.0, END, augmentation)(*window, True)
    (plain, plainly_masked, clean), (blocks, masked, disturbed_clean) = filled
    assert torch.equal(plainly_masked, masked)
    for name, value in vars(plain).items():
        assert torch.equal(value, getattr(blocks, name)), name
    assert not torch.equal(clean, disturbed_clean)


@given(window=windows(), seed=st.integers(0, 1000), size=st.sampled_from([2, 4, 8]))
def test_no_block_is_shown_a_token_that_it_is_to_fill_in(window: tuple[Tensor, Tensor], seed: int, size: int) -> None:
    """Slots see the clean text before their block; none of what they predict may have moved there."""
    documents_BT = window[1][:, :-1]
    torch.manual_seed(seed)
    place_BT = shuffled(documents_BT, documents_BT >= 0, 5, size)
    for row, places in enumerate(place_BT.tolist()):
        for column, place in enumerate(places):
            if column and documents_BT[row, column] >= 0:
                begin = (column - 1) // size * size  # of the block that predicts this token
                assert place > begin, f"the token of column {column} stands at {place}, before the block from {begin}"


def test_a_diffusion_model_counts_every_target_as_without() -> None:
    model, window = decoder(diffusion={"block_size": 4}), small_window()
    plain, augmented = (
        targets_asked(DiffusionObjective(model, 0.0, END, one), window) for one in (UNTOUCHED, disturbed())
    )
    assert all(torch.equal(one, other) for one, other in zip(plain, augmented, strict=True))
    assert blocks_of(model, *window, END).size_U.sum() >= 59


THOUGHTS = {
    "segment_length": 4,
    "modules": [{"type": "thought_stack", "thought_dims": (2, 2, 2), "thought_noise": 0.0, "thought_dropout": 0.0}],
}


def losses_of_rows(model: DreamLM, augmentation: Augmentation) -> Tensor:
    """The loss of each row's segments, (B, segments)."""
    tokens, _ = small_window()
    documents = torch.zeros_like(tokens, dtype=torch.int32)
    vectors: list[Tensor] = []
    handle = model.head.register_forward_pre_hook(lambda head, given: vectors.append(given[0].detach()))
    torch.manual_seed(0)
    CausalObjective(model, 0.0, augmentation)(tokens, documents, True)
    handle.remove()
    return vectors[0].view(len(tokens), 4, -1)


def test_thoughts_are_read_with_noise_in_disturbed_rows_only() -> None:
    model = decoder(**THOUGHTS)
    plain = losses_of_rows(model, UNTOUCHED)
    noisy = losses_of_rows(model, only(model, probability=0.5, thought_noise=0.5))
    torch.manual_seed(0)
    chosen_B = torch.rand(4) < 0.5
    assert 0 < chosen_B.sum() < 4
    assert torch.equal(plain[~chosen_B], noisy[~chosen_B])
    assert torch.equal(plain[:, 0], noisy[:, 0])
    assert (plain[chosen_B, 1:] - noisy[chosen_B, 1:]).abs().amax(dim=2).min() > 1e-3


def test_noise_is_read_and_not_remembered() -> None:
    model = decoder(**THOUGHTS)
    tokens, _ = small_window()
    begin = read(only(model, thought_noise=0.5), (tokens, torch.zeros_like(tokens)), model=model).start(model)
    carry = model(tokens[:, :8], torch.zeros_like(tokens[:, :8]), begin, boundaries=False).carry
    state = carry.states["thought_stack"]
    assert not torch.equal(state.recalled()["thoughts"], state.recalled()["thoughts"])
    assert torch.equal(state.seen["thoughts"], state.stacks["thoughts"].ordered())
    chosen = carry.select(torch.tensor([2, 0])).states["thought_stack"]
    assert chosen.noise.deviation_B.tolist() == [0.5, 0.5]
    ring = state.stacks["thoughts"].ordered()
    plain = model(tokens[:, :4], torch.zeros_like(tokens[:, :4]), model.start(4), boundaries=False).carry
    assert torch.equal(ring[:, -2], plain.states["thought_stack"].stacks["thoughts"].ordered()[:, -1])


def test_the_seed_of_a_micro_batch_decides() -> None:
    model, window = decoder(), small_window()

    def loss(seed: int) -> Losses:
        torch.manual_seed(seed)
        found: Losses = CausalObjective(model, 0.0, disturbed())(*window, True)
        return found

    assert torch.equal(loss(1).nll, loss(1).nll)
    assert not torch.equal(loss(1).nll, loss(2).nll)


def test_dropped_tokens_need_a_vector() -> None:
    plain = DreamLM.Config.model_validate({"hidden_size": 16, "num_heads": 2}).build(VOCAB)
    with pytest.raises(UserMistake, match="this model has none") as caught:
        disturbed(plain)
    assert caught.value.where == "train.augmentation.token_dropout"
    disturbed(plain, token_dropout=0.0)


def test_shares_of_more_than_all_tokens_are_refused() -> None:
    with pytest.raises(ValidationError, match="must make at most 1 together"):
        Disturbed.Config(token_substitution=0.6, token_dropout=0.5)
