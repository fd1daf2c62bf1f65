"""Captions are found, read without a look at the picture, and compared with what is not theirs."""

import math

import numpy as np
import pytest
import torch
from picture_models import PLACES, VOCAB, batch_of, pixels, seeing_model
from torch import Tensor
from torch.nn import functional as F

from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.nn.vision.contrast import Contrast, similarity
from dreamlm.core.nn.vision.view import Sight
from dreamlm.core.objectives.augmentation import Disturbed
from dreamlm.core.objectives.captions import Captions, captions_in, longest_caption, roles_of_captions
from dreamlm.core.objectives.causal import CausalObjective
from dreamlm.core.objectives.targets import targets_of
from dreamlm.core.training.backend.backend import WindowBatch
from dreamlm.core.types import Batch


def test_a_caption_ends_with_its_document_its_row_or_the_next_picture() -> None:
    tokens, documents, of = batch_of(["P", 5, 6, "P", 7, "D", 9], ["D", 3, 4, "P", 8, *["-"] * 5])
    found = captions_in(Sight(torch.zeros(3, 3, 8, 8, dtype=torch.uint8), of), tokens, documents, 9)
    assert found.tokens_IN.tolist() == [[5, 6], [7, -1], [8, -1]]


def test_a_picture_whose_row_ends_with_it_has_no_caption() -> None:
    tokens, documents, of = batch_of(["P", 5, "P"])
    found = captions_in(Sight(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), of), tokens, documents, 9)
    assert found.there_I.tolist() == [True, False]


def test_a_long_caption_is_compared_by_its_beginning() -> None:
    tokens, documents, of = batch_of(["P", 5, 6, 7, 8])
    found = captions_in(Sight(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), of), tokens, documents, 2)
    assert found.tokens_IN.tolist() == [[5, 6]]


def test_places_are_no_targets() -> None:
    tokens, documents, _ = batch_of(["P", 5, 6, "-"], ["D", 1, 2, 3, 4, 5, 6])
    assert targets_of(tokens, documents).tolist() == [[*[-1] * PLACES, 5, 6, -1], [1, 2, 3, 4, 5, 6]]


def test_losses_count_words_alone() -> None:
    model = seeing_model()
    tokens, documents, of = batch_of(["P", 5, 6, 7], ["P", 8, 9, 4])
    losses = CausalObjective(model, 0.0)(tokens, documents, True, Sight(pixels(model, 2), of))
    assert losses.tokens == 6
    shown = model(tokens[:, :-1], documents[:, :-1], model.start(2), True, model.look(Sight(pixels(model, 2), of)))
    plain = F.cross_entropy(model.logits(shown.hidden[:, PLACES:]).flatten(0, 1), tokens[:, 1 + PLACES :].flatten())
    assert losses.objectives["token"].item() / 6 == pytest.approx(plain.item(), abs=1e-5)


def test_losses_of_layers_are_sums_over_words_too() -> None:
    """Where everything goes to all experts, their balance is 1 for each token."""
    model = seeing_model(feed_forward={"type": "moe", "num_experts": 2, "top_k": 2})
    tokens, documents, of = batch_of(["P", 5, 6, 7], ["P", 8, 9, "-"])
    losses = CausalObjective(model, 0.0)(tokens, documents, True, Sight(pixels(model, 2), of))
    assert (losses.objectives["moe_balance"] / losses.tokens).item() == pytest.approx(1, rel=1e-5)


def test_the_side_of_the_text_sees_no_picture() -> None:
    model = seeing_model()
    tokens, documents, of = batch_of(["P", 5, 6, 7], ["P", 8, 9, 4])
    sights = [Sight(pixels(model, 2, seed).requires_grad_(False), of) for seed in (3, 4)]
    roles = [roles_of_captions(model, captions_in(sight, tokens, documents, 9)) for sight in sights]
    assert torch.equal(roles[0], roles[1])
    roles[0].sum().backward()
    touched = {
        name for name, one in model.vision.named_parameters() if one.grad is not None and one.grad.abs().sum() > 0
    }
    assert {name.partition(".")[0] for name in touched} == {"blank", "contrast"}


def test_a_caption_is_read_as_if_it_stood_alone() -> None:
    model = seeing_model()
    together = roles_of_captions(model, Captions(torch.tensor([[5, 6, 7], [8, -1, -1]])))
    alone = roles_of_captions(model, Captions(torch.tensor([[8]])))
    assert torch.allclose(together[1:], alone, atol=1e-5)


def contrastive(model: DreamLM, rows: list[list[int | str]], seen: Tensor | None) -> Tensor:
    tokens, documents, of = batch_of(*rows)
    sight = None if seen is None else Sight(seen, of)
    losses = CausalObjective(model, 0.0)(tokens, documents, True, sight)
    assert all(torch.isfinite(loss) for loss in losses.objectives.values())
    return losses.objectives["contrastive"] / losses.tokens


def test_no_picture_or_one_has_nothing_to_learn_from() -> None:
    model = seeing_model()
    assert contrastive(model, [["D", 5, 6]], None) == 0
    alone = contrastive(model, [["P", 5, 6]], pixels(model, 1))
    assert alone == 0
    alone.backward()
    assert all(one.grad is None or one.grad.isfinite().all() for one in model.parameters())
    assert contrastive(model, [["P", 5, 6, "P"]], pixels(model, 2)) == 0


def test_one_caption_twice_is_no_wrong_answer() -> None:
    model = seeing_model()
    assert contrastive(model, [["P", 5, 6], ["P", 5, 6]], pixels(model, 2)) == 0
    assert contrastive(model, [["P", 5, 6], ["P", 5, 7]], pixels(model, 2)) > 0


def test_one_picture_twice_is_no_wrong_answer() -> None:
    model = seeing_model()
    assert contrastive(model, [["P", 5, 6], ["P", 8, 7]], pixels(model, 1).expand(2, -1, -1, -1)) == 0


def test_a_model_that_does_not_look_does_not_compare() -> None:
    model = seeing_model()
    model.vision.look(False)
    tokens, documents, of = batch_of(["P", 5, 6], ["P", 5, 7])
    losses = CausalObjective(model, 0.0)(tokens, documents, True, Sight(pixels(model, 2), of))
    assert set(losses.objectives) == {"token"}


def test_the_loss_is_symmetric_cross_entropy_by_its_definition() -> None:
    torch.manual_seed(0)
    contrast = Contrast(8, 0.0, 0.0, 0.07).eval()
    pictures, captions = (F.normalize(torch.randn(4, 3, 8), dim=2) for _ in range(2))
    same = torch.eye(4, dtype=torch.bool)
    same[0, 2] = same[2, 0] = True
    pair = torch.tensor([True, True, True, False])
    found = contrast(pictures, captions, same, pair)
    cosine = torch.stack([torch.stack([(p * c).sum(dim=1).mean() for c in captions]) for p in pictures]) / 0.07
    expected = 0.0
    for one in range(3):
        rivals = [other for other in range(3) if other == one or not same[one, other]]
        across = -(cosine[one, one] - torch.stack([cosine[one, other] for other in rivals]).logsumexp(0))
        down = -(cosine[one, one] - torch.stack([cosine[other, one] for other in rivals]).logsumexp(0))
        expected += float(across + down) / 2 / 3
    assert found.item() == pytest.approx(expected, rel=1e-4)


def test_similarity_is_a_cosine() -> None:
    model = seeing_model()
    roles = model.vision.contrast.of_pictures(model.vision.vectors(pixels(model, 3)))
    assert torch.allclose(similarity(roles, roles).diagonal(), torch.ones(3), atol=1e-5)


def test_the_temperature_is_learned_and_stays_in_its_range() -> None:
    contrast = Contrast(8, 0.0, 0.0, 0.07)
    assert contrast.scale.item() == pytest.approx(1 / 0.07, rel=1e-4)
    with torch.no_grad():
        contrast.log_scale.fill_(50.0)
        assert contrast.scale.item() == pytest.approx(100.0, rel=1e-4)
        contrast.log_scale.fill_(-50.0)
        assert contrast.scale.item() == pytest.approx(1.0, rel=1e-4)


def test_a_caption_of_a_model_with_segments_fits_into_one() -> None:
    model = seeing_model()
    assert longest_caption(model) == 15


def test_augmentation_leaves_places_alone() -> None:
    torch.manual_seed(0)
    model = seeing_model()
    tokens, documents, _ = batch_of(*[["P", 5, 6, 7, 8, 9, 10, 11]] * 50)
    every = Disturbed.Config(probability=1.0, token_substitution=1.0, token_dropout=0.0).build(model, VOCAB, 0, 1)
    read = every.inputs(model.train(), tokens, documents).tokens_BT
    assert torch.equal(read[:, : 1 + PLACES], tokens[:, : 1 + PLACES])
    assert (read[:, 1 + PLACES :] >= 0).all()
    assert not torch.equal(read, tokens)


def learned(captions_of: Tensor, steps: int = 30) -> tuple[DreamLM, Tensor]:
    """A model that has compared coloured pictures, each with the caption that `captions_of` gives it."""
    model = seeing_model("lite", image_size=16, width=8, token_mask_prob=0.0, embedding_dropout=0.0).train()
    colours = torch.randint(0, 256, (len(captions_of), 3, 1, 1), dtype=torch.uint8, generator=torch.manual_seed(2))
    seen = colours.expand(-1, -1, 16, 16).contiguous()
    rows = [["P", int(one) + 2, 1] for one in captions_of[:24]]
    tokens, documents, of = batch_of(*rows)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    objective = CausalObjective(model, 0.0)
    for _ in range(steps):
        losses = objective(tokens, documents, True, Sight(seen[:24], of))
        (losses.objectives["contrastive"] / losses.tokens).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval(), seen


def share_found(model: DreamLM, seen: Tensor, captions_of: Tensor) -> float:
    """Of held-out pictures, how many are likelier with their caption than with the average other one."""
    captions = Captions(torch.stack([captions_of[24:] + 2, torch.ones_like(captions_of[24:])], dim=1))
    with torch.no_grad():
        pictures = model.vision.contrast.of_pictures(model.vision.vectors(seen[24:]))
        alike = similarity(pictures, roles_of_captions(model, captions))
    rivals = captions_of[24:, None] != captions_of[24:]
    return float(((alike.diagonal()[:, None] > alike) & rivals).sum() / rivals.sum())


def test_what_is_not_in_the_pictures_cannot_be_learned() -> None:
    unrelated = torch.randint(0, 20, (88,), generator=torch.Generator().manual_seed(8))
    model, seen = learned(unrelated)
    spread = 1 / math.sqrt(12 * 64)
    assert abs(share_found(model, seen, unrelated) - 0.5) < 4 * spread


def test_what_is_in_the_pictures_is_learned() -> None:
    colours = torch.randint(0, 256, (88, 3, 1, 1), dtype=torch.uint8, generator=torch.manual_seed(2))
    strongest = colours.flatten(1).argmax(dim=1)
    model, seen = learned(strongest)
    assert share_found(model, seen, strongest) > 0.7


def test_a_picture_that_is_added_for_the_other_ranks_changes_no_loss_and_reaches_every_weight() -> None:
    model = seeing_model()
    tokens, documents, _ = batch_of(["D", 5, 6, 7], ["D", 8, 9, 4])
    batch = Batch(tokens.numpy(), documents.numpy().astype(np.int32), np.zeros(2, dtype=np.int32))
    bare = WindowBatch(batch, seed=0)
    losses = [
        CausalObjective(model, 0.0)(*one.inputs(torch.device("cpu")))
        for one in (bare, bare.with_picture(model.config.image_form))
    ]
    assert losses[0].objectives["token"].item() == pytest.approx(losses[1].objectives["token"].item())
    assert losses[1].objectives["contrastive"] == 0
    sum(losses[1].objectives.values()).backward()
    reached = [one.grad for name, one in model.named_parameters() if name.startswith("vision.") and "mask" not in name]
    assert all(grad is not None and grad.isfinite().all() for grad in reached)
