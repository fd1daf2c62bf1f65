"""What a model sees, where it sees it, and who is influenced by that. The contracts hold all encoders to the rest."""

import pytest
import torch
from picture_models import ENCODERS, PLACES, VOCAB, batch_of, logits, pixels, seeing_model
from pydantic import ValidationError

from dreamlm.core.errors import UserMistake
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.nn.vision.lite import Lite
from dreamlm.core.nn.vision.view import Sight
from dreamlm.core.nn.vision.vit import Vit

ROWS = (["P", 5, 6, 7, "P", 8, 9], ["D", 5, 6, 7, 8, 9, 4, 3, 2, 1, 6, 7, 8])


@pytest.fixture(params=ENCODERS)
def model(request: pytest.FixtureRequest) -> DreamLM:
    return seeing_model(request.param)


def test_a_picture_changes_what_comes_behind_its_places_in_its_document_alone(model: DreamLM) -> None:
    tokens, documents, of = batch_of(*ROWS)
    seen = pixels(model, 2)
    other = torch.cat([255 - seen[:1], seen[1:]])
    before, after = (logits(model, tokens, documents, Sight(one, of)) for one in (seen, other))
    moved = (before - after).abs().amax(dim=2) > 1e-6
    first = [False] + [True] * (PLACES + 3)
    assert moved[0].tolist() == first + [False] * (len(moved[0]) - len(first))
    assert not moved[1].any()


def test_each_place_shows_something_of_its_own(model: DreamLM) -> None:
    vectors = model.vision.vectors(pixels(model, 2))
    assert vectors.shape == (2, PLACES, 32)
    assert torch.pdist(vectors.flatten(0, 1)).min() > 1e-3


def test_a_place_is_about_as_long_as_a_token(model: DreamLM) -> None:
    tokens = model.embedding.weight.norm(dim=1).mean()
    assert 0.5 < model.vision.vectors(pixels(model, 8)).norm(dim=2).mean() / tokens < 2.5


def test_the_encoder_runs_once_for_a_batch_and_never_for_text(model: DreamLM) -> None:
    calls: list[int] = []
    model.vision.encoder.register_forward_hook(lambda part, inputs, output: calls.append(len(inputs[0])))
    tokens, documents, of = batch_of(*ROWS)
    logits(model, tokens, documents, Sight(pixels(model, 2), of))
    assert calls == [2]
    text = torch.randint(1, VOCAB, (2, 6))
    model(text, torch.zeros_like(text), model.start(2), False, model.look(None))
    model(text, torch.zeros_like(text), model.start(2), False)
    assert calls == [2]


def test_a_model_that_does_not_look_sees_blanks_and_runs_no_encoder(model: DreamLM) -> None:
    tokens, documents, of = batch_of(*ROWS)
    blank = logits(model, tokens, documents, None)
    model.vision.look(False)
    model.vision.encoder.register_forward_hook(lambda *_: pytest.fail("the encoder ran"))
    unseen = [logits(model, tokens, documents, Sight(pixels(model, 2, seed), of)) for seed in (3, 4)]
    assert torch.equal(unseen[0], unseen[1])
    assert torch.equal(unseen[0], blank)


def test_places_without_a_picture_are_blank(model: DreamLM) -> None:
    tokens, documents, of = batch_of(*ROWS)
    nothing = Sight(pixels(model, 2), torch.full_like(of, -1))
    assert torch.equal(logits(model, tokens, documents, nothing), logits(model, tokens, documents, None))


def test_text_is_read_as_by_a_model_without_eyes(model: DreamLM) -> None:
    torch.manual_seed(0)
    plain = model.config.model_copy(update={"vision": None}).build(VOCAB).eval()
    text = torch.randint(0, VOCAB, (2, 9))
    alone = plain(text, torch.zeros_like(text), plain.start(2)).hidden
    assert torch.equal(alone, model(text, torch.zeros_like(text), model.start(2), view=model.look(None)).hidden)


def test_noise_hides_whole_places_in_training_only() -> None:
    model = seeing_model(token_mask_prob=0.5, embedding_dropout=0.0)
    seen = pixels(model, 40)
    model.train()
    torch.manual_seed(1)
    hidden = (model.vision.vectors(seen) == model.vision.noise.mask).all(dim=2)
    assert 0.35 < hidden.float().mean() < 0.65
    model.eval()
    assert not (model.vision.vectors(seen) == model.vision.noise.mask).all(dim=2).any()


def test_dropout_drops_numbers_of_places() -> None:
    model = seeing_model(token_mask_prob=0.0, embedding_dropout=0.25).train()
    torch.manual_seed(1)
    dropped = (model.vision.vectors(pixels(model, 40)) == 0).float().mean()
    assert dropped == pytest.approx(0.25, abs=0.05)


def test_the_pyramid_has_three_levels_of_means() -> None:
    encoder = Vit.Config(image_size=28, width=8, num_layers=1, num_heads=1).build_encoder()
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter)
    with torch.no_grad():
        encoder.levels.zero_()
        features = encoder(torch.randint(0, 256, (2, 3, 28, 28), dtype=torch.uint8))
    fine = features[:, :196].unflatten(1, (14, 14))
    assert features.shape == (2, 196 + 49 + 9, 8)
    assert torch.allclose(features[:, 196], fine[:, :2, :2].mean(dim=(1, 2)), atol=1e-5)
    assert torch.allclose(features[:, 196 + 49], fine[:, :5, :5].mean(dim=(1, 2)), atol=1e-5)


def test_patches_are_cut_without_mixing_and_normalised() -> None:
    encoder = Vit.Config(image_size=28, width=8, num_layers=1, num_heads=1).build_encoder()
    seen: list[torch.Tensor] = []
    encoder.patches.register_forward_hook(lambda part, inputs, output: seen.append(inputs[0]))
    torch.nn.init.zeros_(encoder.places), torch.nn.init.zeros_(encoder.levels)
    picture = torch.zeros(1, 3, 28, 28, dtype=torch.uint8)
    picture[0, :, 2:4, 4:6] = 255
    encoder(picture)
    bright = (seen[0][0] == 1.0).all(dim=1)
    assert bright.nonzero().flatten().tolist() == [14 + 2]
    assert (seen[0][0, ~bright] == -1.0).all()


def test_a_decoder_says_in_which_form_it_takes_pictures() -> None:
    form = seeing_model("lite").config.image_form
    assert (form.size, form.places) == (24, PLACES)
    assert DreamLM.Config().image_form is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"vision": {"type": "vit", "image_size": 30}}, "multiple of 14"),
        ({"vision": {"type": "lite", "image_size": 30}}, "multiple of 8"),
        (
            {"vision": {"width": 10, "num_heads": 4, "num_prefix_tokens": 2}},
            "vision.width 10 must be a multiple of vision.num_heads 4",
        ),
        ({"vision": {"num_prefix_tokens": 16}}, "must be below seq_length 16"),
        ({"vision": {"num_prefix_tokens": 2}, "diffusion": "block_diffusion"}, "leave out one of the two"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        DreamLM.Config.model_validate({"seq_length": 16, **changes})


def test_a_model_without_eyes_refuses_pictures_by_the_key_that_gives_them() -> None:
    model = DreamLM.Config(hidden_size=16, num_layers=1, num_heads=2, seq_length=16).build(VOCAB)
    with pytest.raises(UserMistake, match="takes no pictures") as caught:
        model.look(Sight(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.zeros(1, 4)))
    assert caught.value.where == "model.vision"
    with pytest.raises(IndexError):
        model(torch.tensor([[-1, 2]]), torch.zeros(1, 2), model.start(1))


def test_lite_sees_each_picture_by_itself() -> None:
    encoder = Lite.Config(image_size=16, width=8).build_encoder()
    seen = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    assert torch.allclose(encoder(seen)[1:2], encoder(seen[1:2]), atol=1e-5)
