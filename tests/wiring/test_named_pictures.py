"""What `--image` names is opened, or refused as a mistake on the command line with words that help."""

import io
import os
from pathlib import Path

import pytest
from PIL import Image

from dreamlm.core.errors import UserMistake
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.wiring.pictures import opened_pictures

FORMATS = "a still picture will do, in one of the formats BMP, GIF, JPEG, PNG, PPM, TIFF, WEBP"
ANEW, SMALLER = "get the file anew, or save the picture once more", "a smaller one will do"
NOISE = Image.effect_noise((30, 30), 50)
SIZES = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "seq_length": 16}


def model(vision: object) -> DreamLM:
    return DreamLM.Config.model_validate({**SIZES, "vision": vision}).build(20)


def png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def gif() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(file, "GIF", save_all=True, append_images=[Image.new("RGB", (4, 4))])
    return file.getvalue()


@pytest.fixture(scope="module")
def seeing() -> DreamLM:
    return model({"type": "lite", "image_size": 16, "num_prefix_tokens": 2, "width": 8})


def test_a_picture_is_opened_in_the_models_size(seeing: DreamLM, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(NOISE))
    assert [one.shape for one in opened_pictures(seeing, [tmp_path / "a.png"] * 2)] == [(3, 16, 16)] * 2
    assert opened_pictures(seeing, []) == []


@pytest.mark.parametrize(
    ("content", "what", "hint"),
    [
        (b"There was a picture.", "no picture of a known format", FORMATS),
        (b"", "empty", ANEW),
        (png(NOISE)[:-400], "truncated (OSError: image file is truncated", ANEW),
        (png(Image.new("1", (9000, 9000))), "more than 67,108,864 pixels (9,000 x 9,000)", SMALLER),
        (gif(), "more than one frame", FORMATS),
    ],
    ids=["text", "empty", "truncated", "bomb", "animation"],
)
def test_a_file_that_gives_no_picture_says_why(
    seeing: DreamLM, tmp_path: Path, content: bytes, what: str, hint: str
) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(content)
    with pytest.raises(UserMistake) as caught:
        opened_pictures(seeing, [file])
    assert caught.value.what.startswith(f"the picture cannot be used: {what}")
    assert (caught.value.where, caught.value.hint) == (f"--image {file}", hint)


def test_what_is_no_file_is_called_what_it_is(seeing: DreamLM, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, what, hint in (
        ("nothing.png", "there is no such file", ""),
        ("", "this is a folder, not a picture", "name each file in it by an --image of its own"),
        ("pipe", "the picture cannot be used: no file", ""),
    ):
        file = tmp_path / name
        with pytest.raises(UserMistake) as caught:
            opened_pictures(seeing, [file])
        assert (caught.value.what, caught.value.where, caught.value.hint) == (what, f"--image {file}", hint)


def test_a_model_without_eyes_points_at_what_was_asked() -> None:
    blind = model(None)
    assert opened_pictures(blind, []) == []
    with pytest.raises(UserMistake, match="this model takes no pictures") as caught:
        opened_pictures(blind, [Path("nothing.png")])
    assert caught.value.where == "--image"
    assert "model.vision" in caught.value.hint
