"""Parts of the comparison of pictures with captions: each does what its setting says, from the configuration on."""

import math

import pytest
import torch
from picture_models import batch_of, pixels, seeing_model
from torch import Tensor
from torch.nn import functional as F

from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.nn.vision.contrast import Bottleneck, Contrast, TokenNoise, similarity
from dreamlm.core.nn.vision.encoder import COLDEST, HOTTEST
from dreamlm.core.nn.vision.lite import Lite
from dreamlm.core.nn.vision.view import Sight
from dreamlm.core.objectives.captions import Captions, roles_of_captions
from dreamlm.core.objectives.causal import CausalObjective

ROWS = (["P", 5, 6, 7], ["P", 8, 9, 4], ["P", 3, 2, 1])
CAPTIONS = Captions(torch.randint(1, 31, (200, 15), generator=torch.Generator().manual_seed(4)))


def test_defaults_are_the_stated_ones() -> None:
    config = Lite.Config()
    assert (config.embedding_dropout, config.token_mask_prob) == (0.15, 0.1)
    assert (config.contrastive_temperature, config.contrastive_weight) == (0.07, 0.1)
    assert config.use_contrastive_loss
    model = seeing_model()
    assert model.vision.contrast.scale.item() == pytest.approx(1 / 0.07, rel=1e-4)
    assert model.config.loss_weights == {"token": 1.0, "contrastive": 0.1}


@pytest.mark.parametrize("weight", [0.0, 0.25])
def test_the_loss_counts_what_its_weight_says(weight: float) -> None:
    assert seeing_model(contrastive_weight=weight).config.loss_weights == {"token": 1.0, "contrastive": weight}
    without = seeing_model(contrastive_weight=weight, use_contrastive_loss=False)
    assert without.config.loss_weights == {"token": 1.0}


def compared(model: DreamLM) -> tuple[Tensor, Tensor]:
    """The loss of three pairs, and how alike they are."""
    tokens, documents, of = batch_of(*ROWS)
    seen = pixels(model, 3)
    with torch.no_grad():
        losses = CausalObjective(model, 0.0)(tokens, documents, True, Sight(seen, of))
        pictures = model.vision.contrast.of_pictures(model.vision.vectors(seen))
        captions = roles_of_captions(model, Captions(torch.tensor([row[1:] for row in ROWS])))
    return losses.objectives["contrastive"] / losses.tokens, similarity(pictures, captions)


@pytest.mark.parametrize("temperature", [0.02, 0.2, 1.0])
def test_the_loss_divides_by_the_temperature_that_is_set(temperature: float) -> None:
    loss, alike = compared(seeing_model(contrastive_temperature=temperature))
    right = torch.arange(3)
    expected = sum(F.cross_entropy(one / temperature, right) for one in (alike, alike.T)) / 2
    assert loss.item() == pytest.approx(expected.item(), rel=1e-3)


def test_a_bottleneck_lets_half_of_the_numbers_through() -> None:
    torch.manual_seed(0)
    way = Bottleneck(8)
    assert way.narrow.weight.shape == (4, 8)
    assert way.widen.weight.shape == (8, 4)
    with torch.no_grad():
        through = way(torch.randn(5, 20, 8))
    assert through.shape == (5, 20, 8)
    assert torch.linalg.matrix_rank(through.flatten(0, 1), rtol=1e-5) == 4


def test_both_sides_have_a_bottleneck_of_their_own() -> None:
    contrast = seeing_model().vision.contrast
    ways = (contrast.picture_way, contrast.caption_way)
    assert [tuple(one.narrow.weight.shape) for one in ways] == [(16, 32), (16, 32)]
    assert not torch.equal(ways[0].narrow.weight, ways[1].narrow.weight)


@pytest.mark.parametrize(("mask", "dropout"), [(0.3, 0.0), (0.0, 0.4), (0.2, 0.1)])
def test_noise_masks_whole_vectors_and_drops_numbers_of_the_others(mask: float, dropout: float) -> None:
    torch.manual_seed(0)
    noise, vectors = TokenNoise(16, mask, dropout), 1 + torch.rand(50, 80, 16)
    noisy = noise(vectors)
    masked = (noisy == noise.mask).all(dim=2)
    assert masked.float().mean() == pytest.approx(mask, abs=0.03)
    zeros = noisy[~masked] == 0
    assert zeros.float().mean() == pytest.approx(dropout, abs=0.01)
    torch.testing.assert_close(noisy[~masked][~zeros], vectors[~masked][~zeros] / (1 - dropout))
    assert torch.equal(noise.eval()(vectors), vectors)


def test_the_mask_vector_is_learned() -> None:
    torch.manual_seed(0)
    noise = TokenNoise(4, 0.5, 0.0)
    noise(torch.randn(10, 10, 4)).sum().backward()
    assert noise.mask.grad.abs().min() > 0


def noisy_parts(model: DreamLM) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """What comes into the noise and what comes out of it, of pictures and then of captions."""
    seen: list[Tensor] = []
    before, behind = model.vision.prefix, model.vision.contrast.caption_way
    behind.register_forward_pre_hook(lambda part, inputs: seen.append(inputs[0]))
    torch.manual_seed(1)
    with torch.no_grad():
        pictures = pixels(model, 200)
        clean, shown = before(model.vision.encoder(pictures)), model.vision.vectors(pictures)
        roles_of_captions(model, CAPTIONS)
        hidden = model.train(False)(*_alone(model), view=model.look(None)).hidden
    return (clean, shown), (hidden, seen[0])


def _alone(model: DreamLM) -> tuple[Tensor, Tensor, object]:
    tokens = F.pad(CAPTIONS.tokens_IN, (1, 0), value=-1)
    return tokens, torch.zeros_like(tokens), model.start(len(tokens))


@pytest.mark.parametrize(("mask", "dropout"), [(0.3, 0.0), (0.0, 0.4)])
def test_pictures_and_captions_are_disturbed_as_the_configuration_says(mask: float, dropout: float) -> None:
    settings = {"token_mask_prob": mask, "embedding_dropout": dropout}
    for training in (True, False):
        model = seeing_model("lite", **settings).train(training)
        masks = (model.vision.noise.mask, model.vision.contrast.caption_noise.mask)
        for (clean, noisy), vector in zip(noisy_parts(model), masks, strict=True):
            hidden = (noisy == vector).all(dim=2)
            dropped = noisy[~hidden] == 0
            assert hidden.float().mean() == pytest.approx(mask * training, abs=0.05)
            assert dropped.float().mean() == pytest.approx(dropout * training, abs=0.02)
            kept = clean[~hidden][~dropped] / (1 - dropout * training)
            torch.testing.assert_close(noisy[~hidden][~dropped], kept, atol=1e-5, rtol=1e-4)


def slope(log_scale: float, uphill: float) -> float:
    """The gradient that a loss gives the logarithm of the scale, of which it has that gradient inside the range."""
    contrast = Contrast(8, 0.0, 0.0, 0.07)
    with torch.no_grad():
        contrast.log_scale.fill_(log_scale)
    (uphill * contrast.scale.log()).sum().backward()
    return contrast.log_scale.grad.item()


COLD, HOT = -math.log(COLDEST), -math.log(HOTTEST)


@pytest.mark.parametrize(
    ("log_scale", "uphill", "gradient"),
    [
        (2.0, 3.0, 3.0),
        (2.0, -3.0, -3.0),
        (COLD + 1, 3.0, 3.0),  # descent makes it smaller, which leads back
        (COLD + 1, -3.0, 0.0),
        (HOT - 1, -3.0, -3.0),
        (HOT - 1, 3.0, 0.0),
    ],
)
def test_beyond_its_range_the_scale_can_only_come_back(log_scale: float, uphill: float, gradient: float) -> None:
    assert slope(log_scale, uphill) == pytest.approx(gradient)


@pytest.mark.parametrize(("start", "wanted"), [(COLD + 0.5, 20.0), (HOT - 0.5, 5.0)])
def test_an_optimizer_brings_the_scale_back_from_outside(start: float, wanted: float) -> None:
    contrast = Contrast(8, 0.0, 0.0, 0.07)
    with torch.no_grad():
        contrast.log_scale.fill_(start)
    assert contrast.scale.item() == pytest.approx(1 / (COLDEST if start > COLD else HOTTEST), rel=1e-4)
    optimizer = torch.optim.AdamW([contrast.log_scale], lr=0.05, weight_decay=0.0)
    for _ in range(150):
        optimizer.zero_grad()
        (contrast.scale.log() - math.log(wanted)).square().sum().backward()
        optimizer.step()
    assert contrast.scale.item() == pytest.approx(wanted, rel=0.05)
