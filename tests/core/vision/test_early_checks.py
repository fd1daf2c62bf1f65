"""What training refuses of pictures before it begins, and which weights of the eyes may rest."""

import numpy as np
import pytest
import torch
from picture_models import VOCAB, batch_of, pixels, seeing_model

from dreamlm.core.errors import TrainingFailed
from dreamlm.core.nn.vision.view import Sight
from dreamlm.core.objectives.causal import CausalObjective
from dreamlm.core.objectives.picture_augmentation import AS_THEY_ARE, DisturbedPictures
from dreamlm.core.training.sanity import check_batch, check_weights_moved, may_rest, weight_sums
from dreamlm.core.types import Batch, ImageForm, Pictures


def batch(size: int) -> Batch:
    tokens, documents, of = batch_of(["P", 5, 6, 7], ["P", 8, 9, 4])
    pictures = Pictures(np.zeros((2, 3, size, size), dtype=np.uint8), of.numpy().astype(np.int32))
    return Batch(tokens.numpy(), documents.numpy().astype(np.int32), np.zeros(2, dtype=np.int32), (), pictures)


def test_pictures_as_the_model_takes_them_pass() -> None:
    check_batch(batch(28), VOCAB, 1, ImageForm(28, 3))
    check_batch(batch(28), VOCAB, 1, ImageForm(28, 4))


@pytest.mark.parametrize(
    ("form", "where"),
    [
        (None, "model.vision.num_prefix_tokens"),
        (ImageForm(28, 2), "model.vision.num_prefix_tokens"),
        (ImageForm(24, 3), "model.vision.image_size"),
    ],
)
def test_pictures_of_another_form_are_refused_by_key(form: ImageForm | None, where: str) -> None:
    with pytest.raises(TrainingFailed) as caught:
        check_batch(batch(28), VOCAB, 1, form)
    assert caught.value.where == where


def test_eyes_may_rest_only_while_nothing_is_looked_at() -> None:
    model = seeing_model("lite")
    before = weight_sums(model, leave_out=may_rest(model))
    assert any(name.startswith("vision.encoder.") for name in before)
    assert not any(name.startswith(("vision.blank", "vision.contrast.")) for name in before)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith("vision."):
                parameter.add_(0.01)
    check_weights_moved(before, model, looked=False)
    with pytest.raises(TrainingFailed, match=r"vision\.encoder"):
        check_weights_moved(before, model, looked=True)


def test_augmentation_of_pictures_disturbs_in_training_alone_and_by_its_settings() -> None:
    model = seeing_model("lite")
    seen = pixels(model, 6)
    nothing = DisturbedPictures.Config(smallest_crop=1.0, mirrored=0.0, colours=0.0).build()
    assert torch.equal(nothing.seen(seen), seen)
    mirror = DisturbedPictures.Config(smallest_crop=1.0, mirrored=1.0, colours=0.0).build()
    assert torch.equal(mirror.seen(seen), seen.flip(3))
    torch.manual_seed(0)
    bright = DisturbedPictures.Config(smallest_crop=1.0, mirrored=0.0, colours=0.2).build()
    ratio = bright.seen(torch.full_like(seen, 100)).float() / 100
    assert 0.6 < ratio.min() < 0.95
    assert 1.05 < ratio.max() < 1.5
    assert (ratio.flatten(2).std(dim=2) == 0).all()
    corner = torch.zeros(64, 3, 24, 24, dtype=torch.uint8)
    corner[:, :, :2, :2] = 255
    crop = DisturbedPictures.Config(smallest_crop=0.5, mirrored=0.0, colours=0.0).build()
    still_there = (crop.seen(corner)[:, 0] > 0).flatten(1).any(dim=1).float().mean()
    assert 0.05 < still_there < 0.9
    tokens, documents, of = batch_of(["P", 5, 6, 7], ["P", 8, 9, 4])
    for training in (True, False):
        model.train(training)
        found = []
        for pictures in (AS_THEY_ARE, mirror):
            torch.manual_seed(1)
            losses = CausalObjective(model, 0.0, pictures=pictures)(tokens, documents, True, Sight(seen[:2], of))
            found.append(losses.objectives["token"].item())
        assert (found[0] != found[1]) is training
